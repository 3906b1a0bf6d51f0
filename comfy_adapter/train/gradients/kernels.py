"""Forms of the host's kernels that gradients go through, in place of those that have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import comfy.ldm.modules.attention
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn
from torch.nn import functional

_attention = comfy.ldm.modules.attention
# The host's kernels that a gradient goes through; those that it puts together itself write into
# results, or choose their pieces by the memory that is free, anew when they are recomputed.
_DIFFERENTIABLE = tuple(
    kernel.__wrapped__ for kernel in (_attention.attention_pytorch, _attention.attention_xformers)
)
_KERNELS = "comfy_kitchen"
_WRITTEN_OUT = tuple(f"{_KERNELS}.backends.eager.{name}" for name in ("rope", "adaln"))


def with_gradient(original: Any, *args: Any, **how: Any) -> Tensor:
    """The host's attention where a gradient goes through it, torch's own in place of any other:
    SageAttention has none, FlashAttention as the host calls it neither."""
    kernel = original if original in _DIFFERENTIABLE else _attention.attention_pytorch
    return kernel(*args, **how)


def explicit_attention(original: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kw):
    """Softmax attention written out: on a CPU its backward pass is faster than the fused one's.

    q, k, v: (B, tokens, heads * width). Anything but the plain case is the host's.
    """
    plain = not args and not any(kw.get(name) is not None for name in ("mask", "scale"))
    plain = plain and q.ndim == k.ndim == v.ndim == 3 and q.shape[-1] == k.shape[-1] == v.shape[-1]
    if not plain or kw.get("skip_reshape") or kw.get("skip_output_reshape"):
        return with_gradient(original, q, k, v, heads, *args, **kw)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    with torch.autocast("cpu", enabled=False):  # autocast would take the softmax to float32
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, heads, tokens, tokens)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Within this block the host's fused norms and rotations are its own forms of them in torch's
    operations, as no gradient goes through the kernels. A host without such kernels is left alone.
    """
    kernels = _module(_KERNELS)
    offered = {name: vars(kernels)[name] for name in getattr(kernels, "__all__", ())}
    plain = {
        name: form
        for module in map(_module, _WRITTEN_OUT)
        for name, form in vars(module).items()
        if name in offered and callable(form)
    }
    before = {name: offered[name] for name in plain}
    vars(kernels).update(plain)
    try:
        yield
    finally:
        vars(kernels).update(before)


def with_exact_gradients(network: nn.Module) -> None:
    """Have the layers of a training's network whose weights are stored quantised send back the
    gradient of the dequantised weight. INT8's own product would round it, and INT4's has none."""
    for layer in network.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, QuantizedTensor) and hasattr(layer, "_forward"):
            layer._forward = _exact_backwards(layer._forward)


def _exact_backwards(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """product: (inputs, weight, bias) -> what a layer returns."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.requires_grad and isinstance(weight, QuantizedTensor):
            return _Product.apply(x, weight, bias)
        return product(x, weight, bias)

    return run


class _Product(torch.autograd.Function):
    """Inputs (..., n) through a frozen weight (out, n): forwards by the host's kernel, as when the
    model samples."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight, ctx.dtype = weight, x.dtype
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight = ctx.weight.dequantize().to(gradient.dtype)
        return (gradient @ weight).to(ctx.dtype), None, None


def _module(name: str) -> ModuleType:
    """The module of that name, an empty one where there is none."""
    try:
        return import_module(name)
    except ImportError:
        return ModuleType(name)
