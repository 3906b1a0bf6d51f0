"""How large an update is: Frobenius norm and the sum of its largest entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..types import Factors
from .factors import combine

_GROUP = 64  # entries that share one maximum in top_sum


def energy(factors: Factors | Sequence[Factors], top_k: int | None = None) -> float:
    """The Frobenius norm of dW, without forming dW; with top_k, the sum of its largest entries.

    |dW|^2 = scale^2 tr((up^T up)(down down^T)), in float64: rank x rank matrices only.
    factors: one update, or all that a layer holds (their sum is measured).
    """
    if top_k is not None:
        return top_k_sum(factors, top_k)
    one = _one(factors)
    up, down = one.up.double(), one.down.double().flatten(1)
    square = ((up.T @ up) * (down @ down.T)).sum().item()
    return abs(one.scale) * max(square, 0.0) ** 0.5  # rounding may leave a zero just below 0


def top_k_sum(factors: Factors | Sequence[Factors], k: int) -> float:
    """S of K-LoRA (Ouyang et al. 2025, arXiv 2502.18461): the sum of the k largest |dW| entries.

    k: at least 0; all entries if the layer has fewer. Forms dW of this one layer in float32.
    """
    assert k >= 0, "a number of entries is not negative"
    one = _one(factors)
    unscaled = one.up.float() @ one.down.float().flatten(1)  # (out, n * kernel)
    return abs(one.scale) * top_sum(unscaled.abs_(), k)


def top_sum(magnitudes: Tensor, k: int) -> float:
    """Sum of the k largest entries (of all, if there are fewer).

    magnitudes: any shape, no entry below 0. Exact without sorting a large layer: the k largest
    entries lie in the k groups with the largest maxima, so only those are looked at.
    """
    flat = magnitudes.flatten()
    k = min(k, flat.numel())
    if flat.numel() % _GROUP == 0 and flat.numel() > k * _GROUP:
        groups = flat.reshape(-1, _GROUP)  # (groups, entries)
        flat = groups[groups.amax(dim=1).topk(k, sorted=False).indices].flatten()
    return flat.topk(k, sorted=False).values.sum(dtype=torch.float64).item()


def _one(factors: Factors | Sequence[Factors]) -> Factors:
    return factors if isinstance(factors, Factors) else combine(factors)
