"""A list of LoRAs as a text: JSON, which the page writes and people may write by hand.

    [{"lora": "dog.safetensors", "role": "content", "strength": 0.8},
     {"lora": "ink.safetensors", "role": "style", "on": false, "layers": "up_blocks.0"}]

Nothing of the text is dropped: a name that no row has is an error, as is a value of another kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from ..errors import CraftError
from ..json_text import shallow_json
from ..types import ROLES, Role
from .layer_sets import check_patterns

SAME = "same"
MOST_STRENGTH = 10.0
_MOST = 1000  # rows
_QUOTED = 60  # letters of a value quoted in a message
_ACTION = "Write rows such as " + json.dumps(
    [{"lora": "dog.safetensors", "role": "content", "strength": 0.8}]
)


@dataclass(frozen=True)
class LoraRow:
    """lora: a file's name, as ComfyUI lists it. layers: own layer patterns, one a line, in place of
    the role's layer set; "" for the role's. on: whether it acts at all. second_lora: the file in
    its place for a second MODEL; SAME for this one, "none" for no LoRA there."""

    lora: str
    role: Role
    strength: float = 1.0
    on: bool = True
    layers: str = ""
    second_lora: str = SAME


_NAMES = tuple(field.name for field in fields(LoraRow))
_NEEDED = ("lora", "role")
_KINDS = {
    "lora": (str, "a file's name"),
    "role": (str, " or ".join(ROLES)),
    "strength": (int | float, f"a number from {-MOST_STRENGTH:g} to {MOST_STRENGTH:g}"),
    "on": (bool, "true or false"),
    "layers": (str, "a text of layer patterns, one a line"),
    "second_lora": (str, f"a file's name, {SAME} or none"),
}


def read_rows(text: str) -> tuple[LoraRow, ...]:
    """The rows in their order; none for an empty text. CraftError names the row and what of it
    cannot be read."""
    if not text.strip():
        return ()
    try:
        rows = shallow_json(text)
    except ValueError as error:
        raise CraftError(
            f"The list of LoRAs is no JSON ({error})", "It is a list of rows, as JSON", _ACTION
        ) from error
    if not isinstance(rows, list):
        raise CraftError(
            f"The list of LoRAs is {_quoted(rows)}", "It is a list of rows, as JSON", _ACTION
        )
    if len(rows) > _MOST:
        raise CraftError(
            f"The list of LoRAs has {len(rows)} rows", f"It can have {_MOST}", "Take rows out"
        )
    return tuple(_row(number, row) for number, row in enumerate(rows, start=1))


def _row(number: int, given: Any) -> LoraRow:
    if not isinstance(given, dict):
        raise _unreadable(number, f"is {_quoted(given)}")
    strange = [name for name in given if name not in _NAMES]
    if strange:
        raise _unreadable(number, f"has {_quoted(strange[0])}")
    absent = [name for name in _NEEDED if not given.get(name)]
    if absent:
        raise _unreadable(number, f"has no {absent[0]}")
    for name, value in given.items():
        if not _fits(name, value):
            raise CraftError(
                f"{name} of row {number} is {_quoted(value)}", f"It is {_KINDS[name][1]}", _ACTION
            )
    row = LoraRow(**given)
    try:
        check_patterns(row.layers)
    except CraftError as error:
        raise CraftError(
            f"Own layers of row {number}: {error.given}", error.possible, error.action
        ) from error
    return row


def _fits(name: str, value: Any) -> bool:
    kind, _ = _KINDS[name]
    if not isinstance(value, kind) or (name == "strength" and isinstance(value, bool)):
        return False
    if name == "strength":
        return abs(value) <= MOST_STRENGTH  # not where it is NaN
    return name != "role" or value in ROLES


def _unreadable(number: int, fault: str) -> CraftError:
    others = ", ".join(name for name in _NAMES if name not in _NEEDED)
    return CraftError(
        f"Row {number} of the list of LoRAs {fault}",
        f"A row has {' and '.join(_NEEDED)}, and may have {others}",
        _ACTION,
    )


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 3]}..."
