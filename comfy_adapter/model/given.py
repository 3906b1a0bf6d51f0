"""Chosen LoRA files as a plan takes them, measured on the model's device and once a file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...craft_core.lora import Meter
from ...craft_core.routing.plan import CandidateLora
from ...craft_core.types import LoraFile
from ..engine.modules import model_names
from .lora_files import BranchFile, TextFit, branch, require, text_fit
from .measured import FileNumbers
from .stamps import file_stamp
from .weights import OnModel, depends_on_weights, patched_weights

_KEPT = 32
# Numbers by file and by the layers it was read against, no tensors.
_known: OrderedDict[tuple, FileNumbers] = OrderedDict()


@contextmanager
def kept() -> Iterator[None]:
    """Store what is measured meanwhile, also where it is ended by an error or a cancel."""
    try:
        yield
    finally:
        for numbers in list(_known.values()):
            numbers.save()


def given(chosen: BranchFile, file: LoraFile, model: Any, clip: Any = None) -> CandidateLora:
    """clip: where there is one, to know what of the file it cannot take."""
    text = text_fit(clip, file) if clip else TextFit({})
    return CandidateLora(
        branch(chosen, file),
        chosen.layers,
        (*file.unmatched, *text.unknown),
        _meter(chosen, file, model),
        (*file.faults, *text.faults),
        file.notes,
    )


def _meter(chosen: BranchFile, file: LoraFile, model: Any) -> Meter:
    """Strengths and prompts do not enter, so changing them measures nothing anew; a file whose dW
    depends on the model's weights is measured anew each time."""
    device = model.load_device
    layers = OnModel(file.layers, patched_weights(model, device), device)
    if depends_on_weights(file.layers):
        return Meter(chosen.name, layers)
    path, names = require(chosen), tuple(model_names(model).layers)
    key = (*file_stamp(path), names, device.type)
    if key not in _known:
        _known[key] = FileNumbers(path, names, device.type)
    known = _known[key]
    _known.move_to_end(key)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return Meter(chosen.name, layers, known)
