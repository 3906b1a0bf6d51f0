"""CRAFT routing: each branch acts on its own layer set, as much as its marker's gamma says.

CRAFT-LoRA (2026), arXiv:2602.18936, Eq. 8: W_agg = W* + sum over I_c of gamma_c dW_c + sum over I_s
of gamma_s dW_s. gamma multiplies the product up @ down once (the release scales both factors,
which squares it).
"""

from __future__ import annotations

from ..papers import CRAFT
from ..types import Bank, Gates, Routing, constant_gates
from .methods import FUSION, FusionTraits, gammas_on_layer_sets


@FUSION.register("CRAFT routing", paper=CRAFT, traits=FusionTraits(markers=True, layer_sets=True))
def craft(bank: Bank, routing: Routing) -> Gates:
    """Each LoRA on its own layer set, switched by the prompt's markers."""
    return constant_gates(gammas_on_layer_sets(bank, routing))
