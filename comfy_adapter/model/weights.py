"""A MODEL's weights as it computes with them, for updates that depend on the weight they meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import comfy.lora
import comfy.model_management
import torch
from torch import Tensor

from ...craft_core.types import LayerUpdate
from ..engine.modules import PREFIX, weight_shape
from ..engine.weights import own_patches

WeightOf = Callable[[str], Tensor]
"""Module path -> the layer's weight in float32, the MODEL's patches on it; a copy."""


def patched_weights(model: Any, device: Any = "cpu") -> WeightOf:
    """Nothing is read before a layer is asked for."""
    found: dict[str, list] = {}

    def weight_of(path: str) -> Tensor:
        if not found:
            found.update(own_patches(model, PREFIX))
        key = f"{PREFIX}{path}.weight"
        (weight, convert), *patches = found[key]
        moved = comfy.model_management.cast_to_device(weight, device, torch.float32, copy=True)
        plain = convert(moved, inplace=True)
        plain = plain.dequantize() if hasattr(plain, "dequantize") else plain
        patched = comfy.lora.calculate_weight(patches, plain.float(), key)
        module = model.model.diffusion_model.get_submodule(path)
        return patched.reshape(weight_shape(module))

    return weight_of


class OnModel(Mapping):
    """A LoRA's updates as they are on a MODEL alone, on a device: each layer when it is looked at.

    What depends on the weight it meets has the dW of the MODEL's own weight there.
    """

    def __init__(
        self, layers: Mapping[str, Sequence[LayerUpdate]], weights: WeightOf, device: Any = None
    ) -> None:
        self.layers, self.weights, self.device = layers, weights, device

    def __getitem__(self, path: str) -> tuple[LayerUpdate, ...]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        updates = tuple(self.layers[path])
        if self.device is not None:
            updates = tuple(one.mapped(lambda t: t.to(self.device)) for one in updates)
        if any(one.on_weight for one in updates):
            weight = self.weights(path)
            updates = tuple(one.on(weight) for one in updates)
        return updates

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __contains__(self, path: object) -> bool:
        return path in self.layers


def depends_on_weights(layers: Mapping[str, Sequence[LayerUpdate]]) -> bool:
    return any(one.on_weight for updates in layers.values() for one in updates)
