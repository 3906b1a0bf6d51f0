"""Numbers measured of LoRA files, kept in the user folder: a file is measured once in its life.

They are found again by what is in the file, by the layers it was read against and by the kind of
device, so that a renamed copy is known and a changed file is not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import folder_paths

from ...craft_core.json_text import shallow_json
from ...craft_core.lora import STATISTICS
from ...craft_core.writing import write_whole
from .stamps import hash_of

FORMAT = 2  # one more when the same weights give other numbers, or they are stored otherwise
MOST_FILES = 512
MOST_NUMBERS = 1 << 16
MOST_BYTES = 1 << 24

_Key = tuple[str, str, int]  # statistic, module path, K


class FileNumbers(MutableMapping[_Key, float]):
    """The numbers of one LoRA file. What was stored is read when the first number is asked for."""

    def __init__(self, path: str, layers: Sequence[str], device: str) -> None:
        self._file, self._layers, self._device = path, layers, device
        self._numbers: dict[_Key, float] | None = None
        self._place: Path | None = None
        self._new = False

    def save(self) -> None:
        """Store what was added since the last time; a folder that takes no file is no fault."""
        if not (self._new and self._place and self._numbers):
            return
        self._new = False
        try:
            _write(self._place, self._numbers)
        except OSError as error:
            logging.info("Measured LoRA statistics could not be stored: %s", error)

    def _known(self) -> dict[_Key, float]:
        if self._numbers is None:
            self._place = _place(hash_of(self._file), self._layers, self._device)
            self._numbers = _read(self._place, frozenset(self._layers))
        return self._numbers

    def __getitem__(self, key: _Key) -> float:
        return self._known()[key]

    def __setitem__(self, key: _Key, number: float) -> None:
        known = self._known()
        if len(known) >= MOST_NUMBERS:
            known.clear()
        known[key] = number
        self._new = True

    def __delitem__(self, key: _Key) -> None:
        del self._known()[key]
        self._new = True

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())


def folder() -> Path:
    """Inside the host's user folder, under a name that its HTTP routes do not serve."""
    return Path(folder_paths.get_user_directory()) / "__craft_lora" / "statistics"


def _place(content: str, layers: Sequence[str], device: str) -> Path:
    name = hashlib.sha256("\n".join([str(FORMAT), content, device, *layers]).encode())
    return folder() / f"{name.hexdigest()}.json"


def _read(place: Path, layers: frozenset[str]) -> dict[_Key, float]:
    """What is stored there; nothing where that is not wholly what _write stores."""
    try:
        with open(place, "rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            return {}
        rows = shallow_json(text)
        found = {(str(name), str(path), int(k)): number for name, path, k, number in rows}
    except (OSError, ValueError, TypeError, OverflowError):
        return {}
    if not all(_sound(key, number, layers) for key, number in found.items()):
        return {}
    return found


def _sound(key: _Key, number: Any, layers: frozenset[str]) -> bool:
    name, path, k = key
    known = name in STATISTICS and path in layers and k >= 0
    return known and type(number) is float and math.isfinite(number) and number >= 0


def _write(place: Path, numbers: Mapping[_Key, float]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    rows = [[*key, float(number)] for key, number in numbers.items()]
    write_whole(place, [json.dumps(rows).encode()])
    stored = sorted(place.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
    for old in stored[:-MOST_FILES]:
        old.unlink(missing_ok=True)
