"""Which English texts the server says: literals of the code that runs in it.

A template of a locale's table is a whole literal, or a whole line of one, with its values. Where
the code puts a text together of several, the template is one of them, with {text} before or after
it for the others; or all of them, where the code joins them in one expression.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product

from ..paths import ROOT

ROOMS = ("craft_core", "comfy_adapter", "nodes")
VALUE = re.compile(r"\{\w*\}")
ERRORS = ("CraftError", "Mistake", "Taken")
COMMAND_LINE = (
    "comfy_adapter/headless.py",
    "comfy_adapter/receive/allowance.py",
    "comfy_adapter/receive/incoming.py",
    "comfy_adapter/receive/places.py",
    "comfy_adapter/receive/route.py",
    "craft_core/lora/without_model.py",
)
"""Files whose errors none but the command line raises or shows."""
_NAMED = re.compile(r"\{(\w*)\}")
_OTHERS_BEFORE = re.compile(r"^\{text\w*\}")
_OTHERS_AFTER = re.compile(r"\{text\w*\}$")
_ARTICLE = re.compile(r"^An? ")  # which the code puts before a noun
_STOP = re.compile(r"(?<!\.)\.$")
_LETTERS = re.compile(r"[A-Za-z]")
_SETTING = re.compile(r"(\{\}: )?[\w{}]+ = \{\}(, [\w{}]+ = \{\})*")  # in all languages
_NO_WORDS = "[^A-Za-z]+"
_ROLE = f"(?:content|style|{_NO_WORDS})"


def is_said(template: str) -> bool:
    """Whether the code says it."""
    before = _OTHERS_BEFORE.sub("", template)
    forms = {template, before, _OTHERS_AFTER.sub("", template), _OTHERS_AFTER.sub("", before)}
    if not VALUE.search(template):
        forms.add(_ARTICLE.sub("", template))
    return any(VALUE.sub("{}", form) in _all_texts() for form in forms)


@cache
def _all_texts() -> frozenset[str]:
    texts = (text for room in ROOMS for text in texts_of(room))
    return frozenset(one for text in texts for one in (text, *text.split("\n")))


def texts_of(room: str) -> Iterator[str]:
    """Every text of a room's files, with {} for a value."""
    for file in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield VALUE.sub("{}", node.value)
            elif isinstance(node, ast.JoinedStr | ast.BinOp):
                yield from _forms(node)
                yield "".join(map(_piece, getattr(node, "values", ())))


def error_texts() -> Iterator[tuple[str, str]]:
    """(file, text) of each part of an error that a page may show, with {} for a value."""
    for file in sorted(one for room in ROOMS for one in (ROOT / room).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if name not in COMMAND_LINE:
            yield from ((name, text) for text in _errors_in(ast.parse(file.read_text("utf-8"))))


def _errors_in(module: ast.Module) -> Iterator[str]:
    constants = {
        node.targets[0].id: node.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
            for part in node.args:
                own = constants.get(part.id, part) if isinstance(part, ast.Name) else part
                yield from _forms(own)


def _forms(node: ast.AST) -> list[str]:
    """What an expression can be, with {} for a value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [VALUE.sub("{}", node.value)]
    if isinstance(node, ast.JoinedStr):
        return _joined(map(_forms, node.values))
    if isinstance(node, ast.FormattedValue):
        chosen = isinstance(node.value, ast.IfExp)
        return _forms(node.value) if chosen else ["{}"]
    if isinstance(node, ast.IfExp):
        return [*_forms(node.body), *_forms(node.orelse)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _joined(map(_forms, (node.left, node.right)))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):  # a text, or not
        return [*_forms(node.left), ""]
    return ["{}"]


def _piece(part: ast.AST) -> str:
    return part.value if isinstance(part, ast.Constant) else "{}"


def _joined(parts: Iterable[list[str]]) -> list[str]:
    return ["".join(one) for one in product(*parts)]


def lacking(texts: Iterable[str], templates: Iterable[str]) -> list[str]:
    """Those with a sentence that has words and that no template makes."""
    made = re.compile("|".join(map(_pattern, templates)), re.DOTALL)

    def is_made(text: str) -> bool:
        bare = _STOP.sub("", text)
        return (
            not _LETTERS.search(VALUE.sub("", bare))
            or bool(_SETTING.fullmatch(bare))
            or bool(made.fullmatch(bare))
        )

    return [text for text in texts if not (is_made(text) or all(map(is_made, text.split(". "))))]


def _pattern(template: str) -> str:
    """Of the forms that it makes: no value but another text takes words."""
    pieces = _NAMED.split(_STOP.sub("", template))
    for at, name in enumerate(pieces):
        if at % 2 == 0:
            pieces[at] = re.escape(name)
        elif name.startswith(("text", "noun")):
            pieces[at] = ".+"
        else:
            pieces[at] = _ROLE if name.startswith("role") else _NO_WORDS
    return "".join(pieces)
