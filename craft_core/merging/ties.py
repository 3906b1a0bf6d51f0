"""TIES: trim each update, elect a sign for every entry, average those that agree with it.

TIES-Merging (Yadav et al. 2023), arXiv:2306.01708, Sec. 4 and Algorithm 1. On dW, one layer at a
time: the paper trims over the whole task vector at once, where a LoRA's large layers would push
out its small ones.

Our choices: strengths multiply the updates before the election. Entries whose signed sum is
exactly 0 have no sign and become 0. Of equal magnitudes at the threshold all are kept.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from ..papers import TIES
from ..registry import Knob
from .methods import MERGES, MergeTraits, Updates

COMBINE = ("mean", "sum")
_ROUNDING = 1e-12  # 0.07 * 100 is a little above 7
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
    kept = torch.stack([trim(one, density) for one in updates.dense()])
    return scaling * elect(kept, combine)


def trim(update: Tensor, density: float) -> Tensor:
    """The ceil(density * entries) largest magnitudes, 0 elsewhere; any shape."""
    keep = math.ceil(density * update.numel() * (1.0 - _ROUNDING))
    if keep == 0:
        return torch.zeros_like(update)
    magnitudes = update.abs()
    threshold = magnitudes.flatten().kthvalue(update.numel() - keep + 1).values
    return torch.where(magnitudes >= threshold, update, 0.0)


def elect(updates: Tensor, combine: str) -> Tensor:
    """(branches, ...) -> (...): the mean or sum of the entries that have the sign of their sum."""
    agrees = (updates.sign() == updates.sum(dim=0).sign()) & (updates != 0)
    total = torch.where(agrees, updates, 0.0).sum(dim=0)
    return total if combine == "sum" else total / agrees.sum(dim=0).clamp(min=1)
