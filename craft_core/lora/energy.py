"""How large an update is: Frobenius norm, and sums of its largest and of all its entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CraftError
from ..types import ROLES, Branch, Energies, Factors
from .factors import combine

_GROUP = 64  # neighbouring entries of a row that share one maximum
_BLOCK = {"cpu": 1 << 17}  # entries of dW looked at together: on a CPU what its cache holds
_LARGE_BLOCK = 1 << 24


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

    k: at least 0; all entries if the layer has fewer.
    """
    return magnitude(factors, k).top


@dataclass(frozen=True)
class Magnitude:
    """top: the sum of the k largest |dW| entries. total: the sum of all of them."""

    top: float
    total: float


@torch.no_grad()
def magnitude(factors: Factors | Sequence[Factors], k: int) -> Magnitude:
    """Both sums, exactly, in float32, without ever holding dW.

    k: at least 0. dW is made a block of rows at a time, of which only the maxima of groups of
    neighbours are kept: the k largest entries lie in the k groups with the largest maxima, and
    those are made once more.
    """
    assert k >= 0, "a number of entries is not negative"
    one = _one(factors)
    up, down = one.up.float(), one.down.float().flatten(1)  # (out, rank), (rank, n * kernel)
    spare = -down.shape[1] % _GROUP
    down = torch.nn.functional.pad(down, (0, spare)).contiguous()
    k = min(k, up.shape[0] * (down.shape[1] - spare))
    maxima, total = _sweep(up, down)
    top = _largest(up, down, maxima, k) if k else 0.0
    scale = abs(one.scale)
    return Magnitude(scale * top, scale * total)


def pair_energies(branches: Sequence[Branch], depth_order: Iterable[str]) -> Energies:
    """S_c, S_s (Eqs. 3-5 of K-LoRA, arXiv 2502.18461) and sum |dW| by role, in each layer that
    both roles adapt.

    K = r_c r_s, r the largest rank of a role's factors in the layer. Several branches of a role
    add their sums; strengths do not count, so that moving a dial moves no layer.
    Raises CraftError for weights that are not finite.
    """
    by_role = [[b for b in branches if b.role == role] for role in ROLES]
    both = set.intersection(*({p for b in group for p in b.layers} for group in by_role))
    top, total = {}, {}
    for path in depth_order:
        if path not in both:
            continue
        k = math.prod(_rank(group, path) for group in by_role)
        content, style = (_of_role(group, path, k) for group in by_role)
        top[path], total[path] = (content.top, style.top), (content.total, style.total)
    return Energies(top, total)


def _sweep(up: Tensor, down: Tensor) -> tuple[Tensor, float]:
    """(the maxima of |up down| in every row's groups (out, groups), the sum of |up down|)."""
    out, columns = up.shape[0], down.shape[1]
    rows = max(1, _BLOCK.get(up.device.type, _LARGE_BLOCK) // columns)
    buffer = up.new_empty(min(rows, out), columns)
    maxima = up.new_empty(out, columns // _GROUP)
    sums = []
    for start in range(0, out, rows):
        block = buffer[: min(rows, out - start)]
        torch.mm(up[start : start + rows], down, out=block).abs_()
        torch.amax(block.unflatten(1, (-1, _GROUP)), 2, out=maxima[start : start + rows])
        sums.append(block.sum())
    return maxima, torch.stack(sums).double().sum().item()


def _largest(up: Tensor, down: Tensor, maxima: Tensor, k: int) -> float:
    """The sum of the k largest |up down| entries."""
    groups = maxima.shape[1]
    found = maxima.flatten().topk(min(k, maxima.numel()), sorted=False).indices
    columns = down.unflatten(1, (groups, _GROUP)).movedim(1, 0)  # (groups, rank, group)
    at_once = max(1, _LARGE_BLOCK // (up.shape[1] * _GROUP))
    entries = [
        (up[part // groups][:, None] @ columns[part % groups]).abs_().flatten()
        for part in found.split(at_once)
    ]
    return torch.cat(entries).topk(k, sorted=False).values.sum(dtype=torch.float64).item()


def _of_role(branches: Sequence[Branch], path: str, k: int) -> Magnitude:
    """A role's sums in a layer: those of its branches together."""
    found = []
    for branch in branches:
        if path not in branch.layers:
            continue
        one = magnitude(branch.layers[path], k)
        if not (math.isfinite(one.top) and math.isfinite(one.total)):
            raise CraftError(
                f"{branch.name} has weights that are not finite numbers in {path}",
                "Layers can be compared only where all weights are finite",
                "Use another copy of the file; this one is broken",
            )
        found.append(one)
    return Magnitude(sum(one.top for one in found), sum(one.total for one in found))


def _rank(branches: Sequence[Branch], path: str) -> int:
    return max(factors.rank for branch in branches for factors in branch.layers.get(path, ()))


def _one(factors: Factors | Sequence[Factors]) -> Factors:
    return factors if isinstance(factors, Factors) else combine(factors)
