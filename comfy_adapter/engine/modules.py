"""The host's model as the core sees it: module paths, weight shapes, and the names files use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import comfy.lora
import torch
from torch import nn

from ...craft_core.lora.placing import runs_of
from ...craft_core.types import LayerTarget
from .fused_kernels import refuse_fused_kernels

PREFIX = "diffusion_model."
_WEIGHT = ".weight"
_RUN_ORDER = ("attn1", "attn2", "ff")
_TRANSFORMER_LAYER = re.compile(r"(.*\.transformer_blocks\.\d+)\.(attn1|attn2|ff)\.")


def model_layers(patcher: Any) -> dict[str, tuple[int, ...]]:
    """Linear and convolution layers of a MODEL, in forward depth order.

    -> {module path inside the diffusion model: weight shape (out, n) or (out, n, *kernel)}.
    The host's models register their blocks in the order in which they run. Inside one they may
    not: a UNet's transformer block, which registers its feed-forward before its second attention,
    is put right here; inside a DiT's block, and among its embedders, the order is as registered.
    """
    refuse_fused_kernels(patcher.model.diffusion_model)
    found = {path: weight_shape(module) for path, module in _layers(patcher.model.diffusion_model)}
    first: dict[str, int] = {}  # where each transformer block starts
    for index, path in enumerate(found):
        first.setdefault(_block(path)[0], index)
    order = {path: (first[_block(path)[0]], _block(path)[1]) for path in found}
    return {path: found[path] for path in sorted(found, key=order.__getitem__)}


def _block(path: str) -> tuple[str, int]:
    """(its transformer block, place in it) of a UNet's layer; other layers stand for themselves."""
    match = _TRANSFORMER_LAYER.match(path)
    return (match[1], _RUN_ORDER.index(match[2])) if match else (path, 0)


def _layers(diffusion_model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in diffusion_model.named_modules():
        # The host's quantised layers are no torch.nn.Linear; what they all have is their sizes.
        if hasattr(module, "weight") and (
            hasattr(module, "in_features") or hasattr(module, "kernel_size")
        ):
            yield path, module


def weight_shape(module: Any) -> tuple[int, ...]:
    """The logical weight shape, also where the stored weight is packed."""
    if hasattr(module, "in_features"):
        return (module.out_features, module.in_features)
    return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)


def host_names(patcher: Any) -> dict[str, LayerTarget]:
    """Every LoRA name the host itself maps for this model, as targets.

    The host knows the names of each DiT family, slices of fused layers included, and where the
    names are of a model that has a layer's outputs in another order. A name whose function does
    more than reorder is left out.
    """
    shapes, names = model_layers(patcher), {}
    for name, value in comfy.lora.model_lora_keys_unet(patcher.model, {}).items():
        key, offset, function = _taken_apart(value)
        module = key.removeprefix(PREFIX).removesuffix(_WEIGHT)
        if not key.endswith(_WEIGHT) or function is not None and module not in shapes:
            continue
        spans = {0: None, 1: None} if offset is None else {offset[0]: (offset[1], offset[2])}
        rows, columns = spans.get(0), spans.get(1)
        order = None
        if function is not None:
            order = _order(function, rows[1] if rows else shapes[module][0])
            if order is None:
                continue
        names[name] = LayerTarget(module, rows, columns, order)
    return names


def _taken_apart(value: Any) -> tuple[str, tuple[int, int, int] | None, Any]:
    """(key of a weight, (axis, start, length) of a slice, function of the difference)."""
    if isinstance(value, str):
        return value, None, None
    key, offset, function = (*value, None)[:3]
    return key, offset, function


def _order(function: Any, outputs: int) -> tuple[tuple[int, int], ...] | None:
    """How a function reorders outputs, as LayerTarget has it; None if it does anything else."""
    numbered = torch.arange(outputs, dtype=torch.float32)[:, None]
    reordered = function(numbered.clone())
    return runs_of(reordered.flatten()) if reordered.shape == numbered.shape else None
