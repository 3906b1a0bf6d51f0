"""The host's model as the core sees it: module paths, weight shapes, and the names files use."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.memory_management
import comfy.model_management
import comfy.ops
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn
from torch.nn import functional

from ...craft_core.errors import CraftError
from ...craft_core.lora.keys import LoraNames, lora_names
from ...craft_core.lora.placing import runs_of
from ...craft_core.types import LayerTarget, LayerUpdate, times

PREFIX = "diffusion_model."
_FUSED_STEP = "rms_rope"
_READS_WEIGHT = re.compile(r"cast_bias_weight\(\s*self\.(\w+)|self\.(\w+)\.weight\b")
_WEIGHT = ".weight"
_NUNCHAKU = "nunchaku"
_RUN_ORDER = ("attn1", "attn2", "ff")
_TRANSFORMER_LAYER = re.compile(r"(.*\.transformer_blocks\.\d+)\.(attn1|attn2|ff)\.")


@dataclass(frozen=True)
class ModelNames:
    """A model as LoRA files are read against it. layers: lora_layers of it. names: every name of
    a layer, those of the host among them. family: the same text for models that differ in neither.
    """

    layers: Mapping[str, tuple[int, ...]]
    names: LoraNames
    family: str


_known: WeakKeyDictionary[nn.Module, ModelNames] = WeakKeyDictionary()  # while the model lives


def model_names(patcher: Any) -> ModelNames:
    """The names of a MODEL, gathered once for the weights that its clones share."""
    found = _known.get(patcher.model)
    if found is None:
        layers = lora_layers(patcher)
        names = lora_names(layers, host_names(patcher))
        text = repr((list(layers.items()), sorted(names.items(), key=lambda one: one[0])))
        found = ModelNames(layers, names, hashlib.sha256(text.encode()).hexdigest())
        _known[patcher.model] = found
    return found


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


def lora_layers(patcher: Any) -> dict[str, tuple[int, ...]]:
    """model_layers, and after them in the order of registration the normalisations with a weight
    (n,): all that a LoRA file can change. Those whose weight an attention takes for a fused step
    of its own are left out: nothing can be added to what they return, as they return nothing."""
    network = patcher.model.diffusion_model
    fused = {
        f"{parent}.{name}"
        for parent, module in network.named_modules()
        for name in _fused_norms(type(module))
    }
    norms = {
        path: tuple(module.weight.shape)
        for path, module in network.named_modules()
        if is_norm(module) and path not in fused
    }
    return model_layers(patcher) | norms


def refuse_fused_kernels(diffusion_model: nn.Module) -> None:
    """CraftError where a layer of the model is Nunchaku's, to which nothing can be added.

    SVDQuant models (Li et al. 2025, arXiv:2411.05007) fuse a layer's product, its own low-rank part
    and its neighbours into one kernel; some are wholly one opaque module. Their LoRAs go into that
    low-rank part, which only Nunchaku's own loaders do.
    """
    for path, module in diffusion_model.named_modules():
        if _is_fused(module):
            raise CraftError(
                "This MODEL is quantised by Nunchaku (SVDQuant): "
                f"{path or 'it'} computes in a kernel of its own",
                "LoRAs are routed through layers that return their output before the next one "
                "starts, as in fp16, bf16, fp8, INT8, NVFP4 and GGUF models",
                "Load one of these with Load Diffusion Model or a GGUF loader for the Router, or "
                "load the LoRAs with Nunchaku's own LoRA loaders instead of the Router",
            )


def _is_fused(module: Any) -> bool:
    package = type(module).__module__.split(".")[0]
    return package == _NUNCHAKU or (hasattr(module, "qweight") and not hasattr(module, "weight"))


def is_norm(module: Any) -> bool:
    """Whether a module normalises its inputs and multiplies them by a weight (n,)."""
    weight = getattr(module, "weight", None)
    known = isinstance(module, nn.LayerNorm | nn.GroupNorm) or _is_rms_norm(module)
    return known and torch.is_tensor(weight) and weight.ndim == 1


def scaled_norm(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The normalised inputs of a normalisation, times another weight, without its bias."""
    if isinstance(module, nn.LayerNorm):
        return functional.layer_norm(x, module.normalized_shape, weight, None, module.eps)
    if isinstance(module, nn.GroupNorm):
        return functional.group_norm(x, module.num_groups, weight, None, module.eps)
    return functional.rms_norm(x, weight.shape, weight, module.eps)


def project(module: Any, x: Tensor, down: Tensor) -> Tensor:
    """x through `down`: (B, ranks, *spatial) for a convolution, (B, ..., ranks) for a linear, and
    for a normalisation its inputs times `down`."""
    if is_norm(module):
        return scaled_norm(module, x, down)
    if down.ndim > 2:
        return module._conv_forward(x, down, None)
    return x @ down.T


def in_groups(module: Any) -> bool:
    """Whether it is a convolution each of whose outputs sees some of the inputs only."""
    return getattr(module, "groups", 1) > 1


def act_in_groups(
    module: Any, x: Tensor, y: Tensor, update: LayerUpdate, amount: float | Tensor
) -> None:
    """Add amount * dW x to y, in place, for a convolution in groups: by dW as a whole, which is
    small there, since rows of `up` in different groups see different inputs."""
    whole = update.whole(y.shape[output_axis(module)])
    added, alpha = times(module._conv_forward(x, whole.to(x.dtype), None), amount)
    y.add_(added, alpha=alpha)


def weight_now(module: Any, like: Tensor) -> Tensor:
    """A layer's weight in float32 on `like`'s device, patched and dequantised as it computes: a
    copy."""
    shape = weight_shape(module)
    if not hasattr(module, "weight_function"):  # none of the host's own layers
        return module.weight.to(like.device, torch.float32, copy=True).reshape(shape)
    with reading_again(module):
        weight, _, stream = comfy.ops.cast_bias_weight(
            module, dtype=torch.float32, device=like.device, bias_dtype=torch.float32,
            offloadable=True,
        )  # fmt: skip
        copied = dequantised(weight).to(torch.float32, copy=True).reshape(shape)
        comfy.ops.uncast_bias_weight(module, weight, None, stream)
    return copied


def dequantised(weight: Tensor) -> Tensor:
    """A weight that the host has cast: it stays quantised where its type is the one asked for."""
    return weight.dequantize() if isinstance(weight, QuantizedTensor) else weight


def bias_now(module: Any, like: Tensor) -> Tensor | None:
    """A layer's bias in `like`'s type, patched as it computes; None where it has none."""
    bias = getattr(module, "bias", None)
    if bias is None:
        return None
    own = (bias.device, bias.dtype) == (like.device, like.dtype)
    if own and not getattr(module, "bias_function", None):
        return bias
    with reading_again(module):
        _, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
        copied = bias.to(like.dtype, copy=True)
        comfy.ops.uncast_bias_weight(module, None, bias, stream)
    return copied


@contextmanager
def reading_again(module: Any) -> Iterator[None]:
    """Meanwhile the host may read a layer's weight and bias once more in a pass: the same values.

    Under dynamic VRAM some of its models fetch a block's layers before the block runs. What finds
    no room among the card's pages lies in a buffer, into which each read adds the patches of a LoRA
    loader anew. So this read gets a buffer of its own. The host's are shared by all layers of the
    block, so a cast of its own would overwrite what those to come have there.
    """
    fetched = getattr(module, "_prefetch", None)
    if fetched is None or fetched["resident"] or fetched["signature"] is not None:
        yield
        return
    stored = [module.weight, module.bias]
    own = torch.empty(
        comfy.memory_management.vram_aligned_size(stored),
        dtype=torch.uint8, device=fetched["xfer_dest"].device,
    )  # fmt: skip
    comfy.model_management.cast_to_gathered(stored, own)
    module._prefetch = fetched | {"xfer_dest": own}
    try:
        yield
    finally:
        module._prefetch = fetched


def output_axis(module: Any) -> int:
    """The axis of a layer's outputs in what it returns."""
    return 1 if hasattr(module, "kernel_size") or isinstance(module, nn.GroupNorm) else -1


@cache
def _fused_norms(kind: type) -> frozenset[str]:
    """Of a class of the host that normalises and rotates queries and keys in one step, the names
    of the modules whose weights it takes for that."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return frozenset()
    if _FUSED_STEP not in source:
        return frozenset()
    return frozenset(a or b for a, b in _READS_WEIGHT.findall(source))


def _is_rms_norm(module: Any) -> bool:
    """torch's own, or one of those that the host's models bring."""
    return isinstance(module, nn.RMSNorm) or (
        type(module).__name__ == "RMSNorm" and hasattr(module, "eps")
    )


def _block(path: str) -> tuple[str, int]:
    """(its transformer block, place in it) of a UNet's layer; other layers stand for themselves."""
    match = _TRANSFORMER_LAYER.match(path)
    return (match[1], _RUN_ORDER.index(match[2])) if match else (path, 0)


def _layers(diffusion_model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in diffusion_model.named_modules():
        # The host's quantised layers are no torch.nn.Linear; what they all have is their sizes.
        if (
            hasattr(module, "weight")
            and (hasattr(module, "in_features") or hasattr(module, "kernel_size"))
            and not getattr(module, "transposed", False)
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
