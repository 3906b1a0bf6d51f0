"""The energies of the chosen files: measured on the model's device, once per choice of files."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import comfy.model_management

from ...craft_core.lora import alone_totals, pair_energies
from ...craft_core.routing.auto import split_by_energy
from ...craft_core.routing.layer_sets import LayerSets
from ...craft_core.types import Branch, Energies, LayerUpdate
from .lora_files import BranchFile, require

_KEPT = 16
_Found = TypeVar("_Found")
# Numbers by choice of files, no tensors.
_known: OrderedDict[tuple, Energies] = OrderedDict()
_alone: OrderedDict[tuple, tuple[float, float]] = OrderedDict()


def file_energies(
    files: Sequence[BranchFile],
    branches: Sequence[Branch],
    layers: Mapping[str, tuple[int, ...]],
    device: Any,
) -> Energies:
    """Strengths and prompts do not enter, so changing them measures nothing anew."""
    key = (tuple((file.role, *_stamp(file)) for file in files), tuple(layers))
    moved = [replace(b, layers=_Moved(b.layers, device)) for b in branches]
    found = _once(_known, key, lambda: replace(pair_energies(moved, layers), alone=_not_kept))
    return replace(found, alone=lambda: _once(_alone, key, lambda: alone_totals(moved)))


def _once(known: OrderedDict[tuple, _Found], key: tuple, measure: Callable[[], _Found]) -> _Found:
    """What is known of the files, measured the first time."""
    if key not in known:
        known[key] = measure()
    known.move_to_end(key)
    while len(known) > _KEPT:
        known.popitem(last=False)
    return known[key]


def _not_kept() -> tuple[float, float]:
    raise AssertionError("what is kept holds no function, for that would hold the LoRAs")


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
    """Updates on another device, each layer moved only when it is looked at."""

    def __init__(self, layers: Mapping[str, tuple[LayerUpdate, ...]], device: Any) -> None:
        self.layers, self.device = layers, device

    def __getitem__(self, path: str) -> tuple[LayerUpdate, ...]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return tuple(one.mapped(lambda tensor: tensor.to(self.device)) for one in self.layers[path])

    def __iter__(self) -> Iterable[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __contains__(self, path: object) -> bool:
        return path in self.layers
