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
_SAMPLE = 1 << 14
_DEVIATIONS = 4
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
    middle, half = sample_bracket(entries, keep, update.shape[-1])
    signs, near = [], []
    for part in entries.split(block_of(entries)):
        sizes = part.abs()
        offset = sizes - middle
        signs.append(offset.sign().sum())
        near.append(sizes[offset.abs_() <= half])
    between = torch.cat(near)
    # signs of the entries that are not near add up to (larger ones) - (smaller ones)
    balance = _total(signs) - int((between - middle).sign().sum())
    larger = (balance + entries.numel() - between.numel()) // 2
    rank = between.numel() - (keep - larger) + 1  # from below, counted from 1
    if not 1 <= rank <= between.numel():  # the sample misled
        between, rank = entries.abs(), entries.numel() - keep + 1
    return between.kthvalue(rank).values.item()


def _total(counts: list[Tensor]) -> int:
    return int(torch.stack(counts).cpu().double().sum())


def sample_bracket(entries: Tensor, keep: int, columns: int) -> tuple[float, float]:
    """(middle, half the width) of where the keep-th largest magnitude most likely is, from a
    sample of all columns alike: its step shares no factor with their number. One that does
    misleads, as the columns of a low-rank matrix differ in size."""
    step = max(1, entries.numel() // _SAMPLE)
    while math.gcd(step, columns) > 1:
        step += 1
    sample = entries[::step].abs()
    count, share = sample.numel(), keep / entries.numel()
    place = round((1.0 - share) * count)
    margin = 8 + math.ceil(_DEVIATIONS * math.sqrt(share * (1.0 - share) * count))
    low = sample.kthvalue(place - margin).values.item() if place > margin else 0.0
    inside = place + margin <= count
    high = sample.kthvalue(place + margin).values if inside else entries.abs().amax()
    return (low + high.item()) / 2, (high.item() - low) / 2


def elect(updates: Tensor, combine: str, floors: Sequence[float] | None = None) -> Tensor:
    """(branches, ...) -> (...): the mean or sum of the entries that have the sign of their sum.

    floors: one for each branch; its entries of a smaller magnitude count as 0 (`threshold`). Made
    a block of entries at a time, as what a processor's cache holds is passed over several times;
    in numbers, not in truth values, which processors are slower with.
    """
    flat = updates.flatten(1)  # (branches, entries)
    merged = flat.new_empty(flat.shape[1])
    size = block_of(flat)
    for part, out in zip(flat.split(size, dim=1), merged.split(size), strict=True):
        if floors is not None:
            part = torch.stack([_trimmed(*one) for one in zip(part, floors, strict=True)])
        signs = part.sum(dim=0).sign_()
        agreeing = (part * signs).clamp_(min=0.0)  # magnitudes, 0 for the others
        torch.sum(agreeing, dim=0, out=out).mul_(signs)
        if combine == "mean":
            out.div_(agreeing.sign_().sum(dim=0).clamp_(min=1.0))
    return merged.reshape(updates.shape[1:])


def _trimmed(entries: Tensor, floor: float) -> Tensor:
    """0 for entries of a magnitude below the floor."""
    least = entries.new_tensor(floor)
    below = torch.nextafter(least, -torch.ones_like(least)).item()
    return torch.nn.functional.hardshrink(entries, below)  # keeps what is strictly larger
