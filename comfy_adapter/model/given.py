"""Chosen LoRA files as a plan takes them, measured on the model's device and once a file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ...craft_core.lora import Meter
from ...craft_core.projection import backbone_lines
from ...craft_core.routing.plan import CandidateLora
from ...craft_core.types import LoraFile
from ..engine.modules import model_names
from ..living import keep_latest
from .basis import projected_from
from .lora_files import BranchFile, TextFit, branch, require, text_fit
from .measured import FileNumbers
from .stamps import file_stamp
from .weights import OnModel, depends_on_weights, patched_weights

_KEPT = 32
# Numbers by file and by the layers it was read against, no tensors.
_known: OrderedDict[tuple, FileNumbers] = OrderedDict()
# Of files whose dW depends on the weights it meets, by the network, its patches and the file. They
# are not stored: in another process nothing but all the weights would tell whose they are.
_on_weights: WeakKeyDictionary[nn.Module, OrderedDict[tuple, dict]] = WeakKeyDictionary()


@contextmanager
def kept() -> Iterator[None]:
    """Store what is measured meanwhile, also where it is ended by an error or a cancel."""
    try:
        yield
    finally:
        for numbers in list(_known.values()):
            numbers.save()


def given(chosen: BranchFile, file: LoraFile, model: Any, clip: Any = None) -> CandidateLora:
    """clip: where there is one, to know what of the file it cannot take. The lines tell where the
    file was trained on another backbone."""
    text = text_fit(clip, file) if clip else TextFit({})
    return CandidateLora(
        branch(chosen, file),
        chosen.layers,
        (*file.unmatched, *text.unknown),
        _meter(chosen, file, model),
        (*file.faults, *text.faults),
        file.notes,
        backbone_lines(chosen.name, file.metadata, projected_from(model)),
    )


def _meter(chosen: BranchFile, file: LoraFile, model: Any) -> Meter:
    """Strengths and prompts do not enter, so changing them measures nothing anew."""
    device, path = model.load_device, require(chosen)
    layers = OnModel(file.layers, patched_weights(model, device), device)
    if depends_on_weights(file.layers):
        known = _on_weights.setdefault(model.model, OrderedDict())
        key = (*file_stamp(path), device.type, model.patches_uuid)
        return Meter(chosen.name, layers, keep_latest(known, key, dict, _KEPT))
    names = tuple(model_names(model).layers)
    key = (*file_stamp(path), names, device.type)
    numbers = keep_latest(_known, key, lambda: FileNumbers(path, names, device.type), _KEPT)
    return Meter(chosen.name, layers, numbers)
