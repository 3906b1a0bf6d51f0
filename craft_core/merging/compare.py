"""What is in an update, and what of two updates of one layer points the same way.

Energies are K-LoRA's (arXiv 2502.18461, Eqs. 3-5), sign conflict is TIES' (arXiv 2306.01708,
Sec. 3), the overlap of subspaces is the mean squared cosine of the principal angles (Bjorck and
Golub 1973). Everything is exact; dW is made a block of rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..lora.cost import multiplications
from ..lora.factors import of_weights, spread
from ..lora.statistics import magnitude
from ..types import Factors, LayerUpdate
from .truncate import delta_norm

_BLOCK = 1 << 20  # entries of dW looked at together
_NOTHING = 1e-6  # directions below this share of the strongest are rounding


@dataclass(frozen=True)
class UpdateSummary:
    """One update. alpha: scale * rank. size: |dW| (Frobenius). top: the sum of its rank^2 largest
    entries; total: of all, by magnitude. entries: how many dW has, and so the multiplications of
    the layer itself, per token or position; multiplications: those of the update."""

    rank: int
    alpha: float
    size: float
    top: float
    total: float
    entries: int
    multiplications: float


@dataclass(frozen=True)
class UpdateComparison:
    """Two updates. inner: sum of dW_1 * dW_2. up, down: overlap of the column and row spaces, 0
    for orthogonal, 1 where the smaller lies inside the larger; up_cosine, down_cosine: of the
    smallest principal angle. conflicts: entries with opposite signs, of all `both` where neither
    is 0. lost, least: sums of min(|dW_1|, |dW_2|) over conflicts and over all, which weighs
    conflicts by what they cancel."""

    inner: float
    up: float
    down: float
    up_cosine: float
    down_cosine: float
    conflicts: int
    both: int
    lost: float
    least: float


@torch.no_grad()
def measure(updates: Sequence[LayerUpdate], out: int) -> UpdateSummary:
    """All that a file does to one layer. out: the layer's outputs."""
    rank = sum(one.rank for one in of_weights(updates))
    same = spread(updates)
    found = magnitude(same, rank**2)
    entries = out * math.prod(of_weights(updates)[0].inputs)
    return UpdateSummary(
        rank, same.scale * rank, delta_norm(same), found.top, found.total, entries,
        sum(multiplications(one) for one in of_weights(updates)),
    )  # fmt: skip


@torch.no_grad()
def compare(one: Factors, other: Factors) -> UpdateComparison:
    """Both of a whole layer (rows = None)."""
    ups = [factors.scale * factors.up.double() for factors in (one, other)]
    downs = [factors.flat_down.double() for factors in (one, other)]
    inner = ((ups[0].T @ ups[1]) * (downs[0] @ downs[1].T)).sum().item()
    up, up_cosine = _overlap(_span(ups[0]), _span(ups[1]))
    down, down_cosine = _overlap(_span(downs[0].T), _span(downs[1].T))
    return UpdateComparison(inner, up, down, up_cosine, down_cosine, *_signs(one, other))


def _span(matrix: Tensor) -> Tensor:
    """An orthonormal basis (rows, dimensions) of the columns."""
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, values > _NOTHING * values[0]] if values[0] > 0 else left[:, :0]


def _overlap(one: Tensor, other: Tensor) -> tuple[float, float]:
    """(mean squared cosine, largest cosine) of the principal angles; 0 where a space is empty."""
    if not (one.shape[1] and other.shape[1]):
        return 0.0, 0.0
    cosines = torch.linalg.svdvals(one.T @ other).clamp(max=1.0)
    return cosines.square().mean().item(), cosines[0].item()


def _signs(one: Factors, other: Factors) -> tuple[int, int, float, float]:
    """(conflicts, both, lost, least) of UpdateComparison."""
    pairs = [(f.scale * f.up.float(), f.flat_down.float()) for f in (one, other)]
    rows = max(1, _BLOCK // pairs[0][1].shape[1])
    conflicts, both, lost, least = 0, 0, 0.0, 0.0
    for start in range(0, one.up.shape[0], rows):
        a, b = (up[start : start + rows] @ down for up, down in pairs)
        product, smaller = a.sign() * b.sign(), torch.minimum(a.abs(), b.abs())
        conflicts += int((product < 0).sum())
        both += int((product != 0).sum())
        lost += smaller[product < 0].sum(dtype=torch.float64).item()
        least += smaller.sum(dtype=torch.float64).item()
    return conflicts, both, lost, least
