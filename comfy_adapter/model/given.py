"""Chosen LoRA files as a plan takes them, measured on the model's device and once a file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import comfy.model_management

from ...craft_core.lora import Meter
from ...craft_core.lora.statistics.pair import Known
from ...craft_core.routing.plan import CandidateLora
from ...craft_core.types import LayerShapes, LayerUpdate, LoraFile
from ..engine.modules import model_names
from .lora_files import BranchFile, branch, require, unknown_text_keys
from .stamps import file_stamp

_KEPT = 32
# Numbers by file and by the layers it was read against, no tensors.
_known: OrderedDict[tuple, Known] = OrderedDict()


def given(chosen: BranchFile, file: LoraFile, model: Any, clip: Any = None) -> CandidateLora:
    """clip: where there is one, to know the keys that it does not have."""
    unknown = unknown_text_keys(clip, file) if clip else ()
    return CandidateLora(
        branch(chosen, file),
        chosen.layers,
        (*file.unmatched, *unknown),
        _meter(chosen, file, model_names(model).layers, model.load_device),
    )


def _meter(chosen: BranchFile, file: LoraFile, layers: LayerShapes, device: Any) -> Meter:
    """Strengths and prompts are not part of the key, so changing them measures nothing again."""
    key = (*file_stamp(require(chosen)), tuple(layers))
    known = _known.setdefault(key, {})
    _known.move_to_end(key)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return Meter(chosen.name, _Moved(file.layers, device), known)


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
