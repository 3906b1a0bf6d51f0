"""ComfyUI's dynamic VRAM without a card: its own patcher, over an allocator that gives no memory.

A second label of the CPU stands for the card. What the host's patcher does there runs as it is:
what it loads, takes off and puts back, and what it copies by force. What it stages, a layer reads
from where it is. Nothing is shown of the card's memory, of streams and of pinned memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.pinned_memory
import comfy.utils
import comfy_aimdo.model_vbar
import pytest
import torch
from torch import nn

CARD = torch.device("cpu", 1)
PROCESSOR = torch.device("cpu")


class Pages:
    """A model's memory of the card: none."""

    def __init__(self, *_: Any) -> None:
        pass

    def prioritize(self) -> None:
        pass

    def loaded_size(self) -> int:
        return 0

    def free_memory(self, _size: float) -> int:
        return 0

    def alloc(self, _size: int) -> object:
        return object()


class PinnedMemory:
    """None of the processor's."""

    size = 0

    def __init__(self, *_: Any) -> None:
        pass

    def truncate(self, *_: Any, **__: Any) -> None:
        pass


@contextmanager
def dynamic_vram() -> Iterator[None]:
    """Meanwhile the host has dynamic VRAM, and loads models onto the card."""
    kind, plain = comfy.model_patcher.ModelPatcherDynamic, comfy.model_patcher.ModelPatcher

    def new(cls: type, model: Any = None, load_device: Any = None, *more: Any, **named: Any):
        """As the host, which goes by the kind of device."""
        if load_device == PROCESSOR:
            return plain(model, load_device, *more, **named)
        return object.__new__(cls)

    comfy.model_management.unload_all_models()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__new__", new)
        patch.setattr(comfy.model_patcher, "CoreModelPatcher", kind)
        patch.setattr(comfy.model_management, "get_torch_device", lambda: CARD)
        patch.setattr(comfy_aimdo.model_vbar, "ModelVBAR", Pages)
        if hasattr(comfy_aimdo, "host_buffer"):  # the oldest host pins by other means
            patch.setattr(comfy_aimdo.host_buffer, "HostBuffer", PinnedMemory)
        try:
            yield
        finally:
            comfy.model_management.unload_all_models()


@contextmanager
def counting_moves(kind: type[nn.Module]) -> Iterator[Counter]:
    """Meanwhile counts the tensors that are put into modules of the kind: `moves`, both ways."""
    put, found = comfy.utils.set_attr_param, Counter()

    def counted(owner: Any, name: str, value: torch.Tensor) -> Any:
        found["moves"] += isinstance(owner, kind)
        return put(owner, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.utils, "set_attr_param", counted)
        yield found


@contextmanager
def fetched_without_room(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Meanwhile the layers are those of a block that the host has fetched, with no room among the
    card's pages. They compute in the processor's memory, by what the host casts to the card."""
    cast = comfy.ops.cast_bias_weight

    def to_the_card(layer: nn.Module, x: torch.Tensor | None = None, *given: Any, **named: Any):
        named |= {"device": CARD}
        return cast(layer, x, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy_aimdo.model_vbar, "vbar_fault", lambda _page: None)
        patch.setattr(comfy.pinned_memory, "get_pin", lambda *_, **__: None)
        patch.setattr(comfy.pinned_memory, "pin_memory", lambda *_, **__: False)
        patch.setattr(comfy.model_management, "is_device_cpu", lambda device: device == PROCESSOR)
        patch.setattr(comfy.ops, "cast_bias_weight", to_the_card)
        for layer in layers:
            layer._v, layer._v_signature, layer.seed_key = object(), None, "layer"
            layer.comfy_cast_weights = True
        comfy.ops.cast_modules_with_vbar(list(layers), None, CARD, None, True)
        try:
            yield
        finally:
            for layer in layers:
                del layer._prefetch
