"""Cut an update to a rank by SVD, and measure what that loses.

Factors are cut between the orthonormal bases of their own columns and rows, so dW is never
formed. A dense dW goes through an exact SVD where it is small beside the rank, else through the
randomised range finder of Halko, Martinsson and Tropp 2011 (arXiv:0909.4061), Algorithms 4.4 and
5.1, with random numbers of its own. Either way the error is measured, not estimated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..types import Factors
from .methods import block_of

_OVERSAMPLE, _POWERS = 16, 4
_EXACT = 4  # an exact SVD up to this many times the sampled directions
_SEED = 0


def truncate(update: Tensor | Factors, rank: int, shape: tuple[int, ...]) -> Factors:
    """The best (dense and large: nearly best) factors of at most `rank`, in float32.

    update: (out, n * kernel), or factors. shape: the layer's inputs, (n, *kernel). Both factors
    carry the root of the singular values, so that neither overflows half precision.
    """
    left, values, right = _of_factors(update) if isinstance(update, Factors) else _of(update, rank)
    rank = min(rank, values.numel())
    root = values[:rank].sqrt()
    up = left[:, :rank] * root  # (out, rank)
    down = root[:, None] * right[:rank]  # (rank, n * kernel)
    return Factors(down.float().reshape(-1, *shape), up.float().contiguous())


def delta_norm(update: Tensor | Factors) -> float:
    """The Frobenius norm of dW."""
    if isinstance(update, Factors):
        return _norm(_wide_up(update), update.flat_down.double())
    blocks = update.flatten().split(block_of(update))
    norms = [torch.linalg.vector_norm(block, dtype=torch.float64) for block in blocks]
    return torch.linalg.vector_norm(torch.stack(norms)).item()


def distance(update: Tensor | Factors, other: Factors) -> float:
    """The Frobenius norm of update - other. Between factors, without forming dW, it is exact to
    1e-7 of their size; a dense update is subtracted entry by entry."""
    if isinstance(update, Factors):
        up = torch.cat([_wide_up(update), -_wide_up(other)], dim=1)
        down = torch.cat([update.flat_down.double(), other.flat_down.double()])
        return _norm(up, down)
    up, down = other.up.float(), other.flat_down.float()
    rows = max(1, block_of(update) // down.shape[1])
    parts = zip(update.split(rows), up.split(rows), strict=True)
    return math.hypot(*(delta_norm(part - other.scale * (own @ down)) for part, own in parts))


def _wide_up(factors: Factors) -> Tensor:
    return factors.scale * factors.up.double()


def _norm(up: Tensor, down: Tensor) -> float:
    square = ((up.T @ up) * (down @ down.T)).sum().item()
    return max(square, 0.0) ** 0.5  # rounding may leave a zero just below 0


def _of_factors(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    left, upper = torch.linalg.qr(_wide_up(factors))  # (out, q), (q, r)
    right, lower = torch.linalg.qr(factors.flat_down.double().T)  # (m, p), (p, r)
    inner_left, values, inner_right = torch.linalg.svd(upper @ lower.T)  # (q, p)
    count = values.numel()
    return left @ inner_left[:, :count], values, inner_right[:count] @ right.T


def _of(dense: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    sampled = rank + _OVERSAMPLE
    if _EXACT * sampled >= min(dense.shape):
        return torch.linalg.svd(dense, full_matrices=False)
    basis = _range(dense, sampled)  # (out, sampled)
    left, values, right = torch.linalg.svd(basis.T @ dense, full_matrices=False)
    return basis @ left, values, right


def _range(dense: Tensor, directions: int) -> Tensor:
    """An orthonormal basis (out, directions) of nearly all that dense does."""
    generator = torch.Generator().manual_seed(_SEED)
    probe = torch.randn(dense.shape[1], directions, generator=generator).to(dense)
    basis = torch.linalg.qr(dense @ probe).Q
    for _ in range(_POWERS):
        basis = torch.linalg.qr(dense.T @ basis).Q
        basis = torch.linalg.qr(dense @ basis).Q
    return basis
