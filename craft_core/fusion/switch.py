"""LoRA Switch: one LoRA acts at a time, and they take turns.

LoRA Switch (Zhong et al. 2024), arXiv:2402.16843, Sec. 3.2: with k LoRAs and tau steps each, step
t = 1, 2, ... belongs to LoRA floor((t - 1) mod (k tau) / tau) + 1. The release changes over *after*
steps tau, 2 tau, ..., counted from 0, so its first LoRA keeps one step more; that is `released`.
Steps are those of the run, whatever clock a schedule beside it goes by.
A branch whose marker is absent has no turn.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from ..papers import LORA_COMPOSITION
from ..registry import Knob
from ..time import Moment
from ..types import Bank, Gates, Routing
from .methods import FUSION, FusionTraits, gammas_everywhere


@FUSION.register(
    "LoRA Switch", paper=LORA_COMPOSITION, traits=FusionTraits(markers=True, layer_sets=False)
)
def switch(
    bank: Bank,
    routing: Routing,
    *,
    every: Annotated[int, Knob("Steps of one turn. The paper: 5.", 1, 1000, 1)] = 5,
    timing: Annotated[
        str, Knob("released: the first turn is one step longer, as in the paper's code.",
                  choices=("paper", "released"), advanced=True),
    ] = "paper",
) -> Gates:  # fmt: skip
    """One LoRA at a time, in turns of a few steps, in the order they are connected."""
    table = gammas_everywhere(bank, routing)  # (layers, branches)
    turns = [j for j, gamma in enumerate(routing.gammas) if gamma]

    def at(moment: Moment) -> Tensor:
        if not turns:
            return torch.zeros_like(table)[None]
        late = 1 if timing == "released" else 0
        turn = max(0, moment.step_index - late) // every
        acting = torch.zeros(len(bank.branches))
        acting[turns[turn % len(turns)]] = 1.0
        return (table * acting)[None]

    return Gates(at, notes=(f"LoRA Switch: a turn is {every} steps of the run",))
