"""Direct merge, the papers' baseline: every branch in full on every layer it adapts.

As compared with in CRAFT-LoRA (2026), arXiv:2602.18936, Table 1. Equal to loading the LoRAs one
after the other.
"""

from __future__ import annotations

import torch

from ..types import Bank, Gates, Routing, constant_gates
from .methods import FUSION, FusionTraits


@FUSION.register("Direct merge", traits=FusionTraits(markers=False, layer_sets=False))
def direct(bank: Bank, routing: Routing) -> Gates:
    """Every LoRA in full on all its layers; markers and layer sets are ignored."""
    return constant_gates(torch.ones(len(bank.layers), len(bank.branches)))
