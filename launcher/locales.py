"""The locale files of the host's page: English as the schemas say it, others by a table of phrases.

The page finds a node's texts under its id, its inputs by name and its outputs by number; an input
of a menu, such as method.gamma, is method_gamma there. It compiles names and descriptions as
messages, in which some characters are syntax, and shows tooltips as they are.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import LaunchError
from .paths import ROOT
from .terminal import say

LOCALES = ROOT / "locales"
DEFINITIONS = "nodeDefs.json"
PHRASES = "phrases.json"
MODULE = "custom_nodes.comfyui-craft-lora"
MENU = "COMFY_DYNAMICCOMBO_V3"


class Phrases:
    """A language's words for names and, line by line, for texts; English for what it lacks."""

    def __init__(self, names: dict[str, str], texts: dict[str, str]):
        self._known = {"names": names, "texts": texts}
        self._asked: dict[str, dict[str, None]] = {"names": {}, "texts": {}}

    def name(self, english: str) -> str:
        return self._say("names", english)

    def text(self, english: str) -> str:
        return "\n".join(self._say("texts", line) for line in english.split("\n"))

    def _say(self, table: str, english: str) -> str:
        self._asked[table][english] = None
        return self._known[table].get(english, english)

    def lacking(self) -> list[str]:
        """What was asked for and is not in the tables."""
        return [p for t, asked in self._asked.items() for p in asked if p not in self._known[t]]

    def unused(self) -> list[str]:
        """What is in the tables and was never asked for."""
        return [p for t, known in self._known.items() for p in known if p not in self._asked[t]]


def read_phrases(language: Path) -> Phrases:
    """The table of a language's folder; an empty one where it has none, as English."""
    file = language / PHRASES
    tables = json.loads(file.read_text("utf-8")) if file.is_file() else {"names": {}, "texts": {}}
    return Phrases(**tables)


def definitions(nodes: dict[str, dict[str, Any]], phrases: Phrases) -> dict[str, Any]:
    """nodeDefs.json in one language, of nodes as /object_info describes them."""
    return {node: _node(info, phrases) for node, info in nodes.items()}


def message(text: str) -> str:
    """A text as the page's message compiler wants it, so that it comes out unchanged."""
    return re.sub(r"[@{}|%]", lambda sign: "{'" + sign[0] + "'}", text)


def _node(info: dict[str, Any], phrases: Phrases) -> dict[str, Any]:
    return {
        "display_name": message(phrases.text(info["display_name"])),
        "description": message(phrases.text(info["description"])),
        "inputs": dict(_inputs(info, phrases)),
        "outputs": dict(_outputs(info, phrases)),
    }


def _inputs(info: dict[str, Any], phrases: Phrases) -> Iterator[tuple[str, dict[str, str]]]:
    found: dict[str, dict[str, list[str]]] = {}  # name, tooltip, the entries of a menu it is for
    for name, entry, tooltip in _slots(info["input"]):
        found.setdefault(name, {}).setdefault(tooltip, []).append(entry)
    for name, tooltips in found.items():
        lines = [phrases.text(tooltip) for tooltip in tooltips]
        if len(lines) > 1:
            owners = [", ".join(entries) for entries in tooltips.values()]
            lines = [f"{owner}: {line}" for owner, line in zip(owners, lines, strict=True)]
        label = message(phrases.name(name.rpartition(".")[2]))
        yield name.replace(".", "_"), {"name": label, "tooltip": "\n".join(lines)}


def _slots(
    inputs: dict[str, dict[str, Any]], menu: str = "", entry: str = ""
) -> Iterator[tuple[str, str, str]]:
    """(name as in the page, entry of the menu that brings it, tooltip) of every input."""
    for group in ("required", "optional"):
        for name, (kind, settings) in inputs.get(group, {}).items():
            yield menu + name, entry, settings["tooltip"]
            for option in settings["options"] if kind == MENU else []:
                yield from _slots(option["inputs"], f"{menu}{name}.", option["key"])


def _outputs(info: dict[str, Any], phrases: Phrases) -> Iterator[tuple[str, dict[str, str]]]:
    columns = (info["output"], info["output_name"], info["output_tooltips"])
    for number, (kind, name, tooltip) in enumerate(zip(*columns, strict=True)):
        # An output named like its type gets the page's own word for the type.
        named = {} if name == kind else {"name": message(phrases.name(name))}
        yield str(number), {**named, "tooltip": phrases.text(tooltip)}


def write_locales(shown: dict[str, dict[str, Any]]) -> None:
    """Write every language's nodeDefs.json from all nodes that a real server shows."""
    nodes = {name: info for name, info in shown.items() if info["python_module"] == MODULE}
    for language in sorted(folder for folder in LOCALES.iterdir() if folder.is_dir()):
        phrases = read_phrases(language)
        text = json.dumps(definitions(nodes, phrases), ensure_ascii=False, indent=2)
        if (language / PHRASES).is_file():
            _require_fitting(phrases, language)
        (language / DEFINITIONS).write_text(text + "\n", "utf-8")
        say(f"wrote {language / DEFINITIONS}")


def _require_fitting(phrases: Phrases, language: Path) -> None:
    wrong = [f"lacks {phrase!r}" for phrase in phrases.lacking()]
    wrong += [f"no longer needs {phrase!r}" for phrase in phrases.unused()]
    if wrong:
        raise LaunchError("\n".join([f"{language / PHRASES} needs a change; it", *wrong]))
