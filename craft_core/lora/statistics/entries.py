"""top_k and abs_sum: the sums of the largest and of all entries of |dW|, found in one pass.

S of K-LoRA (Ouyang et al. 2025), arXiv:2502.18461, Eqs. 3-5, and the sums of its Eq. 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...types import LayerUpdate
from ..factors import spread
from .registry import statistic

_GROUP = 64  # neighbouring entries that share one maximum
_BLOCK = {"cpu": 1 << 17}  # entries of dW looked at together: on a CPU what its cache holds
_LARGE_BLOCK = 1 << 24
_SAMPLE = 1 << 15


@dataclass(frozen=True)
class Magnitude:
    """top: the sum of the k largest |dW| entries. total: the sum of all of them."""

    top: float
    total: float


@torch.no_grad()
def magnitude(updates: LayerUpdate | Sequence[LayerUpdate], k: int) -> Magnitude:
    """Both sums, exactly, in float32, without ever holding dW. k: at least 0; all entries if the
    layer has fewer. updates: one, or all that a layer holds (their sum is measured)."""
    assert k >= 0, "a number of entries is not negative"
    one = spread(updates)
    up, down = one.up.float(), one.flat_down.float()  # (out, rank), (rank, n * kernel)
    k = min(k, up.shape[0] * down.shape[1])
    down = torch.nn.functional.pad(down, (0, -down.shape[1] % _GROUP))
    kept, total = _sweep(up, down, k, _likely_floor(up, down, k))
    if len(kept) < k:  # the floor was too high; with none, no entry is skipped
        kept, total = _sweep(up, down, k, 0.0)
    top = kept.topk(k, sorted=False).values.cpu().double().sum().item()  # MPS has no float64
    scale = abs(one.scale)
    return Magnitude(scale * top, scale * total)


def _likely_floor(up: Tensor, down: Tensor, k: int) -> float:
    """A size that about 2k entries of |up down| reach, estimated from rows spread over it."""
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


@statistic("top_k", "abs_sum", ranked=True)
def entries(updates: Sequence[LayerUpdate], k: int) -> Mapping[str, float]:
    found = magnitude(updates, k)
    return {"top_k": found.top, "abs_sum": found.total}
