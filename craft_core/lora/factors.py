"""Arithmetic on low-rank factors; the only place with alpha / rank.

    dW = scale * up @ down,   scale = alpha / rank   (rsLoRA: alpha / sqrt(rank))

A missing alpha means alpha = rank, as PEFT, diffusers and the host read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import CraftError
from ..types import Factors, LayerUpdate


def scale_of(alpha: float, rank: int, rslora: bool = False) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (Kalajdzievski 2023,
    arXiv 2312.03732)."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def alpha_of(scale: float, rank: int) -> float:
    """The alpha that reads back as the scale; for about one scale in six (0.7 at rank 3) no
    float does, then the nearest."""
    alpha = scale * rank
    tries = (alpha, math.nextafter(alpha, -math.inf), math.nextafter(alpha, math.inf))
    return next((value for value in tries if scale_of(value, rank) == scale), alpha)


def is_plain_float(tensor: Tensor) -> bool:
    """Whether it holds one floating-point number an element (float4 packs two)."""
    return tensor.is_floating_point() and "float4" not in str(tensor.dtype)


def combine(updates: Sequence[LayerUpdate], out: int | None = None) -> Factors:
    """All updates of one layer as the exact factors of one, with rows = None: of its weight, or of
    its bias.

    Those that cover a slice of the outputs get zero rows elsewhere; several are laid side by
    side, (r1 + r2 + ..) ranks. The largest scale is that of all; another one's ratio to it goes
    into its up factor, in float32 at least. So no up factor grows, and nothing is rounded where
    the ratios are powers of two. out: the layer's outputs, by default the rows covered.
    """
    assert updates, "there is nothing to combine"
    assert len({one.of_bias for one in updates}) == 1, "a weight and a bias do not add up"
    factors = [one.factors() for one in updates]
    if len(factors) == 1 and factors[0].rows is None:
        return factors[0]
    spans = [one.rows or (0, one.up.shape[0]) for one in factors]
    out = out or max(start + length for start, length in spans)
    scale = max((one.scale for one in factors), key=abs)
    ups = _one_dtype([
        one.up if one.scale == scale else wide(one.up) * (one.scale / scale) for one in factors
    ])  # fmt: skip
    down = torch.cat(_one_dtype([one.down for one in factors]))  # (sum of ranks, n, *kernel)
    up = ups[0].new_zeros(out, down.shape[0])
    column = 0
    for (start, length), part in zip(spans, ups, strict=True):
        up[start : start + length, column : column + part.shape[1]] = part
        column += part.shape[1]
    return Factors(down, up, scale)


def rounded(factors: Factors, name: str, dtype: torch.dtype) -> Factors:
    """The factors in a file's type; CraftError where that cannot hold them. name: of the layer.

    A bias or a normalisation is stored as dW itself, so its factors become that times 1.
    """
    if factors.down.ndim == 1:
        delta = factors.delta()
        factors = Factors(delta.new_ones(1), delta[:, None])
    down, up = factors.down.to(dtype), factors.up.to(dtype)
    if not (down.isfinite().all() and up.isfinite().all()):
        raise CraftError(
            f"{name} does not fit {str(dtype).removeprefix('torch.')}",
            "fp16 holds numbers up to 65504; bf16 and fp32 go far beyond",
            "Save as bf16 or fp32",
        )
    return replace(factors, down=down, up=up)


def spread(updates: LayerUpdate | Sequence[LayerUpdate]) -> Factors:
    """Factors with the entries of one layer's dW in any order, for what only sums over them."""
    if isinstance(updates, LayerUpdate):
        return updates.entries()
    updates = of_weights(updates)
    return combine([updates[0].entries()] if len(updates) == 1 else updates)


def of_weights(updates: Sequence[LayerUpdate]) -> Sequence[LayerUpdate]:
    """What of a layer's updates is compared: those of its weight; of its bias, where no other."""
    return [one for one in updates if not one.of_bias] or updates


def beside_identity(
    dense: Tensor, scale: float = 1.0, rows: tuple[int, int] | None = None
) -> Factors:
    """The matrix (out, n, *kernel) as factors, of which the larger is the matrix itself."""
    out, size = dense.shape[0], dense[0].numel()
    if out <= size:
        return Factors(dense, unit_matrix(out, dense), scale, rows)
    down = unit_matrix(size, dense).reshape(size, *dense.shape[1:])
    return Factors(down, dense.flatten(1), scale, rows)


def unit_matrix(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _one_dtype(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in the dtype they share, else in one that holds all of them exactly."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1:
        return list(tensors)
    return [t.double() if torch.float64 in dtypes else t.float() for t in tensors]
