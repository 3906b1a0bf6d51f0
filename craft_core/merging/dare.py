"""DARE: drop entries of each update at random, rescale the rest, add them up.

Yu et al. 2023, arXiv:2311.03099, Sec. 3: an entry stays with probability 1 - p and is divided by
1 - p, so that every update keeps its expectation; then the updates are added, or go through TIES'
election, the paper's other combination (without a second trim). Ours: p defaults to 0.5, as
factors of low rank have little to drop.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from ..papers import DARE
from ..registry import Knob
from .methods import MERGES, MergeTraits, Updates, block_of
from .ties import Scaling, elect


@MERGES.register("DARE", paper=DARE, traits=MergeTraits(exact=False))
def dare(
    updates: Updates,
    *,
    drop_rate: Annotated[
        float, Knob("Share of each update's entries that are dropped.", 0.0, 0.99, 0.01)
    ] = 0.5,
    then: Annotated[
        str, Knob("What follows: the sum, or TIES' election of signs and mean of those that agree.",
                  choices=("sum", "ties")),
    ] = "sum",
    scaling: Scaling = 1.0,
    seed: Annotated[int, Knob("Same seed, same file.", 0, 2**64 - 1, 1)] = 0,
) -> Tensor:  # fmt: skip
    """Drops entries of each LoRA at random, rescales the others, and adds the LoRAs up."""
    dense, generator = updates.dense(), updates.generator(seed)
    for part in dense.flatten().split(block_of(dense)):  # the first branch first
        drawn = torch.rand(part.shape, generator=generator).ge_(drop_rate)  # 1.0 or 0.0
        part.mul_(drawn.to(part.device))
    merged = dense.sum(dim=0) if then == "sum" else elect(dense, "mean")
    return merged.mul_(scaling / (1.0 - drop_rate))
