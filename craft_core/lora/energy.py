"""How large an update is: Frobenius norm, and sums of its largest and of all its entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CraftError
from ..types import ROLES, Branch, Energies, LayerUpdate
from .factors import spread

_GROUP = 64  # neighbouring entries that share one maximum
_BLOCK = {"cpu": 1 << 17}  # entries of dW looked at together: on a CPU what its cache holds
_LARGE_BLOCK = 1 << 24
_SAMPLE = 1 << 15


def energy(updates: LayerUpdate | Sequence[LayerUpdate], top_k: int | None = None) -> float:
    """The Frobenius norm of dW, without forming dW; with top_k, the sum of its largest entries.

    |dW|^2 = scale^2 tr((up^T up)(down down^T)), in float64: rank x rank matrices only.
    updates: one, or all that a layer holds (their sum is measured).
    """
    if top_k is not None:
        return top_k_sum(updates, top_k)
    one = spread(updates)
    up, down = one.up.double(), one.down.double().flatten(1)
    square = ((up.T @ up) * (down @ down.T)).sum().item()
    return abs(one.scale) * max(square, 0.0) ** 0.5  # rounding may leave a zero just below 0


def top_k_sum(updates: LayerUpdate | Sequence[LayerUpdate], k: int) -> float:
    """S of K-LoRA (Ouyang et al. 2025, arXiv 2502.18461): the sum of the k largest |dW| entries.

    k: at least 0; all entries if the layer has fewer.
    """
    return magnitude(updates, k).top


@dataclass(frozen=True)
class Magnitude:
    """top: the sum of the k largest |dW| entries. total: the sum of all of them."""

    top: float
    total: float


@torch.no_grad()
def magnitude(updates: LayerUpdate | Sequence[LayerUpdate], k: int) -> Magnitude:
    """Both sums, exactly, in float32, without ever holding dW. k: at least 0."""
    assert k >= 0, "a number of entries is not negative"
    one = spread(updates)
    up, down = one.up.float(), one.down.float().flatten(1)  # (out, rank), (rank, n * kernel)
    k = min(k, up.shape[0] * down.shape[1])
    down = torch.nn.functional.pad(down, (0, -down.shape[1] % _GROUP))
    kept, total = _sweep(up, down, k, _likely_floor(up, down, k))
    if len(kept) < k:  # the floor was too high: without one nothing is passed over
        kept, total = _sweep(up, down, k, 0.0)
    top = kept.topk(k, sorted=False).values.cpu().double().sum().item()  # MPS has no float64
    scale = abs(one.scale)
    return Magnitude(scale * top, scale * total)


def _likely_floor(up: Tensor, down: Tensor, k: int) -> float:
    """What about 2k entries of |up down| reach, judged by a few rows from all over it."""
    step = max(1, up.shape[0] * down.shape[1] // _SAMPLE)
    maxima = _maxima((up[::step] @ down).abs_())
    expected = 2 * k // step + 8
    return maxima.topk(min(expected, len(maxima)), sorted=False).values.amin().item()


def _sweep(up: Tensor, down: Tensor, k: int, floor: float) -> tuple[Tensor, float]:
    """(entries of |up down| from floor up, the k largest surely among them if there are k; the
    sum of all). Made a block of rows at a time; groups whose maximum is too low are passed over."""
    rows = max(1, _BLOCK.get(up.device.type, _LARGE_BLOCK) // down.shape[1])
    buffer = up.new_empty(min(rows, len(up)), down.shape[1])
    kept, sums = up.new_empty(0), []
    for part in up.split(rows):
        block = torch.mm(part, down, out=buffer[: len(part)]).abs_()
        sums.append(block.sum())
        found = (_maxima(block) >= floor).nonzero().flatten()
        entries = block.view(-1, _GROUP)[found].flatten()
        kept = torch.cat([kept, entries[(entries >= floor).nonzero().flatten()]])
        if len(kept) > 8 * max(k, _GROUP):
            kept = kept.topk(k, sorted=False).values
            floor = kept.amin().item() if k else math.inf
    return kept, torch.stack(sums).cpu().double().sum().item()


def _maxima(block: Tensor) -> Tensor:
    """(groups,): of each _GROUP neighbours in a row."""
    return block.view(-1, _GROUP).amax(dim=1)


def pair_energies(branches: Sequence[Branch], depth_order: Iterable[str]) -> Energies:
    """S_c, S_s (Eqs. 3-5 of K-LoRA, arXiv 2502.18461) and sum |dW| by role, in each layer that
    both roles adapt.

    K = r_c r_s, r the largest rank of a role's updates in the layer. Several branches of a role
    add their sums; strengths do not count, so that moving a dial moves no layer.
    Raises CraftError for weights that are not finite.
    """
    by_role, both = _by_role(branches)
    top, total = {}, {}
    for path in depth_order:
        if path not in both:
            continue
        k = math.prod(_rank(group, path) for group in by_role)
        content, style = (_of_role(group, path, k) for group in by_role)
        top[path], total[path] = (content.top, style.top), (content.total, style.total)
    return Energies(top, total, lambda: alone_totals(branches))


def alone_totals(branches: Sequence[Branch]) -> tuple[float, float]:
    """sum |dW| of content, and of style, over the layers that the other role does not adapt.

    Raises CraftError for weights that are not finite.
    """
    by_role, both = _by_role(branches)
    content, style = (
        math.fsum(_of_role([branch], path, 0).total
                  for branch in group for path in branch.layers if path not in both)
        for group in by_role
    )  # fmt: skip
    return content, style


def _by_role(branches: Sequence[Branch]) -> tuple[list[list[Branch]], set[str]]:
    """The branches of content and of style, and the layers that both roles adapt."""
    by_role = [[b for b in branches if b.role == role] for role in ROLES]
    return by_role, set.intersection(*({p for b in group for p in b.layers} for group in by_role))


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
    return max(update.rank for branch in branches for update in branch.layers.get(path, ()))
