"""The script in which the page says what the core says, and knows the values the core starts with.

A text of `craft_core/messages.py` becomes a function of its values; a mistake one that makes the
error. So the page's texts have one source, and are found and translated as all that it says.
"""

import json
import re
from collections.abc import Iterator

import craft_lora_pack.craft_core.messages as messages
import craft_lora_pack.craft_core.starting as starting

from ..paths import ROOT

SCRIPT = ROOT / "web" / "js" / "lib" / "core.js"
_HEAD = """\
// @ts-check
/**
 * What the core says too, and the values that it starts with. Written by `python run.py locales`
 * from craft_core/messages.py and craft_core/starting.py: change those.
 */

import { CraftError } from "./craft_error.js";
import { say } from "./texts.js";

/** @typedef {string | number} Value */
"""
_VALUE = re.compile(r"\{(\w+)\}")


def core_script() -> str:
    """The script's whole text."""
    return "\n".join([_HEAD, *_functions(), *_values()])


def _functions() -> Iterator[str]:
    for name, message in vars(messages).items():
        if isinstance(message, messages.Mistake):
            said = "".join(f"    {_said(part)},\n" for part in message.parts)
            yield _function(name, message.parts, f"new CraftError(\n{said}  )")
        elif name.isupper() and not name.startswith("_"):
            yield _function(name, (message,), _said(message))


def core_texts() -> list[str]:
    """Every English text that the core and the page share."""
    shared = [text for name, text in vars(messages).items() if name.isupper() and name[0] != "_"]
    parts = (text.parts if isinstance(text, messages.Mistake) else (text,) for text in shared)
    return list(dict.fromkeys(part for each in parts for part in each))


def _function(name: str, parts: tuple[str, ...], body: str) -> str:
    names = dict.fromkeys(value for part in parts for value in _VALUE.findall(part))
    if not names:
        return f"export const {_camel(name)} = () =>\n  {body};\n"
    fields = ", ".join(f"{value}: Value" for value in names)
    takes = f"/** @param {{{{{fields}}}}} values */\n"
    return f"{takes}export const {_camel(name)} = (values) =>\n  {body};\n"


def _said(text: str) -> str:
    values = ", values" if _VALUE.search(text) else ""
    return f"say({json.dumps(text)}{values})"


def _values() -> Iterator[str]:
    for name, value in vars(starting).items():
        if name.isupper():
            yield f"export const {name} = {json.dumps(value)};"
    yield ""


def _camel(name: str) -> str:
    first, *others = name.lower().split("_")
    return first + "".join(map(str.capitalize, others))
