"""LoRA Composite: every LoRA guides by itself, and the guidances are averaged.

LoRA Composite (Zhong et al. 2024), arXiv:2402.16843, Eq. 4, all weights 1: the mean over the LoRAs
of uncond_i + w (cond_i - uncond_i), the model with LoRA i alone each time. The views here are its
conditional copies; with asymmetric guidance the unconditional one is the backbone, once.
A branch whose marker is absent has no view.
"""

from __future__ import annotations

import torch

from ..papers import LORA_COMPOSITION
from ..types import Bank, Gates, Routing
from .methods import FUSION, FusionTraits, gammas_everywhere


@FUSION.register(
    "LoRA Composite",
    paper=LORA_COMPOSITION,
    traits=FusionTraits(markers=True, layer_sets=False, averages=True),
)
def composite(bank: Bank, routing: Routing) -> Gates:
    """Each LoRA guides alone and the guidances are averaged; costs one evaluation a LoRA."""
    table = gammas_everywhere(bank, routing)  # (layers, branches)
    active = [j for j, gamma in enumerate(routing.gammas) if gamma]
    views = max(1, len(active))
    gates = torch.zeros(views, *table.shape)
    for view, j in enumerate(active):
        gates[view, :, j] = table[:, j]
    return Gates(lambda moment: gates, views, constant=gates[0] if views == 1 else None)
