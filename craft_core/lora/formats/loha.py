"""LoHa: dW = scale * (a1 b1) * (a2 b2), elementwise (Hyeon-Woo et al. 2022, arXiv:2108.06098).

That is the product of all column pairs of a1, a2 with all row pairs of b1, b2, of rank r1 r2. Its
scale is alpha / r1, as LyCORIS writes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ...types import Factors
from ..factors import wide
from ..peft_config import Stated
from .kinds import KINDS, AdapterKind, ending
from .parts import AdaptedLayer, Parts, check_made, fits, misfit, ranks_differ, scale_from

_FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_CORES = ("hada_t1", "hada_t2")


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    a, b = tensors["hada_w1_a"], tensors["hada_w1_b"]
    if "hada_t1" in tensors:
        return (a.shape[1], b.shape[1], *tensors["hada_t1"].shape[2:])
    return (a.shape[0], b.shape[1])


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Factors:
    """down (r1 r2, n, *kernel), up (out, r1 r2) in float32.

    Not more than min(out, n * kernel) ranks: beyond them the product itself is the smaller form.
    """
    up1, down1 = _pair(parts, "1", layer)
    up2, down2 = _pair(parts, "2", layer)
    rank, size = up1.shape[1] * up2.shape[1], down1.shape[1]
    if rank <= min(layer.out, size):
        up = (up1[:, :, None] * up2[:, None, :]).flatten(1)  # (out, r1 r2)
        down = (down1[:, None, :] * down2[None, :, :]).flatten(0, 1)  # (r1 r2, n * kernel)
    else:
        product = (up1 @ down1) * (up2 @ down2)  # (out, n * kernel)
        tall = layer.out > size
        up = product if tall else torch.eye(layer.out, dtype=product.dtype)
        down = torch.eye(size, dtype=product.dtype) if tall else product
    scale = scale_from(parts, parts["hada_w1_b"][1].shape[0], stated)
    return Factors(down.reshape(-1, *layer.inputs), up, scale, layer.target.rows)


def _pair(parts: Parts, number: str, layer: AdaptedLayer) -> tuple[Tensor, Tensor]:
    """One of the two products: up (out, r), down (r, n * kernel); a Tucker core t goes into down.

    With a core the file's tensors are a (r, out), b (r, n), t (r, r, *kernel).
    """
    (a_key, a), (b_key, b) = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
    for key, tensor in ((a_key, a), (b_key, b)):
        if tensor.ndim != 2 or not tensor.numel():
            raise misfit(key, tensor, layer)
    up, down = wide(a), wide(b)
    if f"hada_t{number}" in parts:
        core_key, core = parts[f"hada_t{number}"]
        if core.ndim < 3 or tuple(core.shape[:2]) != (a.shape[0], b.shape[0]):
            raise ranks_differ(core_key, core, b_key, b)
        if not fits((b.shape[1], *core.shape[2:]), layer.inputs):
            raise misfit(core_key, core, layer)
        made = len(core) * math.prod((b.shape[1], *core.shape[2:]))
        check_made(made, (core_key, core), (b_key, b), (a_key, a))
        up, down = up.T, torch.einsum("ij...,jn->in...", wide(core), down)
    if up.shape[0] != layer.out:
        raise misfit(a_key, a, layer)
    if not fits(down.shape[1:], layer.inputs):
        raise misfit(b_key, b, layer)
    if up.shape[1] != down.shape[0]:
        raise ranks_differ(b_key, b, a_key, a)
    return up, down.flatten(1)


KINDS.carry(
    AdapterKind(
        "LoHa",
        {part: ending(rf"\.{part}") for part in (*_FACTORS, *_CORES)},
        forms=(frozenset(_FACTORS), frozenset((*_FACTORS, *_CORES))),
        made_of="the four factors of a LoHa (w1_a, w1_b, w2_a, w2_b, with or without t1 and t2)",
        shape=_shape,
        update=_update,
    )
)
