"""The energies of the chosen files: measured on the model's device, once per choice of files."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management

from ...craft_core.lora import pair_energies
from ...craft_core.routing.auto import split_by_energy
from ...craft_core.routing.layer_sets import LayerSets
from ...craft_core.types import Branch, Energies, Factors
from .lora_files import BranchFile, require

_KEPT = 16
_known: OrderedDict[tuple, Energies] = OrderedDict()  # numbers by layer, no tensors


def file_energies(
    files: Sequence[BranchFile],
    branches: Sequence[Branch],
    layers: Mapping[str, tuple[int, ...]],
    device: Any,
) -> Energies:
    """Strengths and prompts do not enter, so changing them measures nothing anew."""
    key = (tuple((file.role, *_stamp(file)) for file in files), tuple(layers))
    if key not in _known:
        moved = [replace(b, layers=_Moved(b.layers, device)) for b in branches]
        _known[key] = pair_energies(moved, layers)
    _known.move_to_end(key)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return _known[key]


def auto_sets(
    files: Sequence[BranchFile],
    branches: Sequence[Branch],
    layers: Mapping[str, tuple[int, ...]],
    device: Any,
) -> LayerSets:
    """The layer sets `auto`: which role owns which layer."""
    energies = file_energies(files, branches, layers, device)
    return LayerSets(*split_by_energy(branches, layers, energies))


def _stamp(file: BranchFile) -> tuple[str, int, int]:
    path = require(file)
    status = os.stat(path)
    return path, status.st_mtime_ns, status.st_size


class _Moved(Mapping):
    """Factors on another device, each layer moved only when it is looked at."""

    def __init__(self, layers: Mapping[str, tuple[Factors, ...]], device: Any) -> None:
        self.layers, self.device = layers, device

    def __getitem__(self, path: str) -> tuple[Factors, ...]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return tuple(
            replace(f, down=f.down.to(self.device), up=f.up.to(self.device))
            for f in self.layers[path]
        )

    def __iter__(self) -> Iterable[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __contains__(self, path: object) -> bool:
        return path in self.layers
