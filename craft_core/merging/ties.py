"""TIES: trim each update, elect a sign for every entry, average those that agree with it.

TIES-Merging (Yadav et al. 2023), arXiv:2306.01708, Sec. 4 and Algorithm 1. On dW, one layer at a
time: the paper trims over the whole task vector at once, where a LoRA's large layers would push
out its small ones.

Our choices: strengths multiply the updates before the election. Entries whose signed sum is
exactly 0 have no sign and become 0. Of equal magnitudes at the threshold all are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from ..papers import TIES
from ..registry import Knob
from .methods import MERGES, MergeTraits, Updates, block_of

COMBINE = ("mean", "sum")
_ROUNDING = 1e-12  # 0.07 * 100 is a little above 7
_SAMPLE = 1 << 16
Density = Annotated[
    float, Knob("Share of each update's entries, the largest, that are kept.", 0.0, 1.0, 0.01)
]
Combine = Annotated[
    str,
    Knob("What becomes of the entries that agree: their mean (the paper's), or their sum, which "
         "keeps the LoRAs' full strength.", choices=COMBINE),
]  # fmt: skip
Scaling = Annotated[
    float, Knob("Multiplies the result, the paper's lambda.", 0.0, 10.0, 0.05, advanced=True)
]


@MERGES.register("TIES", paper=TIES, traits=MergeTraits(exact=False))
def ties(
    updates: Updates, *, density: Density = 0.2, combine: Combine = "mean", scaling: Scaling = 1.0
) -> Tensor:
    """Keeps each LoRA's largest entries, elects a sign for each, averages those that agree."""
    dense = updates.dense()
    return elect(dense, combine, [threshold(one, density) for one in dense]).mul_(scaling)


def threshold(update: Tensor, density: float) -> float:
    """The magnitude of the smallest of the ceil(density * entries) largest entries: what trimming
    keeps is at least that large. Any shape; infinite where nothing is kept."""
    entries = update.flatten()
    keep = math.ceil(density * entries.numel() * (1.0 - _ROUNDING))
    if keep == 0:
        return math.inf
    low, high = _bracket(entries, keep)
    above, within = 0, []
    for part in entries.split(block_of(entries)):
        part = part.abs()
        larger = part > high
        above = above + larger.sum()
        within.append(part[(part >= low) & ~larger])
    between = torch.cat(within)
    rank = between.numel() - (keep - int(above)) + 1  # from below, counted from 1
    if not 1 <= rank <= between.numel():  # the sample misled
        between, rank = entries.abs(), entries.numel() - keep + 1
    return between.kthvalue(rank).values.item()


def _bracket(entries: Tensor, keep: int) -> tuple[float, float]:
    """Two magnitudes with the keep-th largest between them most likely, from a sample."""
    sample = entries[:: max(1, entries.numel() // _SAMPLE)].abs().sort().values
    place = round((1.0 - keep / entries.numel()) * len(sample))
    margin = 4 * math.isqrt(len(sample))
    low, high = place - margin, place + margin
    return (
        sample[low].item() if low > 0 else 0.0,
        sample[high].item() if high < len(sample) else math.inf,
    )


def elect(updates: Tensor, combine: str, floors: Sequence[float] | None = None) -> Tensor:
    """(branches, ...) -> (...): the mean or sum of the entries that have the sign of their sum.

    floors: one for each branch; its entries of a smaller magnitude count as 0 (`threshold`). Made
    a block of entries at a time, as what a processor's cache holds is passed over several times.
    """
    flat = updates.flatten(1)  # (branches, entries)
    least = None if floors is None else flat.new_tensor(floors)[:, None]
    merged = flat.new_empty(flat.shape[1])
    size = block_of(flat)
    for part, out in zip(flat.split(size, dim=1), merged.split(size), strict=True):
        if least is not None:
            part = torch.where(part.abs() >= least, part, 0.0)
        agrees = part * part.sum(dim=0).sign() > 0
        torch.sum(torch.where(agrees, part, 0.0), dim=0, out=out)
        if combine == "mean":
            out.div_(agrees.sum(dim=0).clamp_(min=1))
    return merged.reshape(updates.shape[1:])
