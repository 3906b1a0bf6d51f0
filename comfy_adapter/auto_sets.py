"""The layer set `auto` for files: computed on the model's device, once per choice of files."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..craft_core.routing.auto import split_by_energy
from ..craft_core.routing.layer_sets import LayerSets
from ..craft_core.types import Branch, Factors
from .lora_files import BranchFile, require

_KEPT = 16
_known: OrderedDict[tuple, LayerSets] = OrderedDict()  # names of layers only, no tensors


def auto_sets(
    files: Sequence[BranchFile],
    branches: Sequence[Branch],
    layers: Mapping[str, tuple[int, ...]],
    device: Any,
) -> LayerSets:
    """Which role owns which layer; strengths and prompts do not enter, so neither asks again."""
    key = (tuple((file.role, *_stamp(file.name)) for file in files), tuple(layers))
    if key not in _known:
        moved = [replace(b, layers=_Moved(b.layers, device)) for b in branches]
        _known[key] = LayerSets(*split_by_energy(moved, layers))
    _known.move_to_end(key)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return _known[key]


def _stamp(name: str) -> tuple[str, int, int]:
    path = require(name)
    status = os.stat(path)
    return path, status.st_mtime_ns, status.st_size


class _Moved(Mapping):
    """Factors on another device, each layer moved only when it is looked at."""

    def __init__(self, layers: Mapping[str, tuple[Factors, ...]], device: Any) -> None:
        self.layers, self.device = layers, device

    def __getitem__(self, path: str) -> tuple[Factors, ...]:
        return tuple(
            replace(f, down=f.down.to(self.device), up=f.up.to(self.device))
            for f in self.layers[path]
        )

    def __iter__(self) -> Iterable[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)
