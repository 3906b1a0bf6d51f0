"""Which English texts the server says: literals of the code that runs in it.

A template of a locale's table is a whole literal, or a whole line of one, with its values. Where
the code puts a text together of several, the template is one of them, with {text} before or after
it for the others.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache

from ..paths import ROOT

ROOMS = ("craft_core", "comfy_adapter", "nodes")
VALUE = re.compile(r"\{\w+\}")
_OTHERS_BEFORE = re.compile(r"^\{text\w*\}")
_OTHERS_AFTER = re.compile(r"\{text\w*\}$")


def is_said(template: str) -> bool:
    """Whether the code says it."""
    before = _OTHERS_BEFORE.sub("", template)
    forms = {template, before, _OTHERS_AFTER.sub("", template), _OTHERS_AFTER.sub("", before)}
    return any(VALUE.sub("{}", form) in _all_texts() for form in forms)


@cache
def _all_texts() -> frozenset[str]:
    texts = (text for room in ROOMS for text in texts_of(room))
    return frozenset(one for text in texts for one in (text, *text.split("\n")))


def texts_of(room: str) -> Iterator[str]:
    """Every text of a room's files, with {} for a value."""
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = (getattr(part, "value", None) for part in node.values)
                yield "".join(one if isinstance(one, str) else "{}" for one in pieces)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield VALUE.sub("{}", node.value)
