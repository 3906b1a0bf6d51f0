"""B-LoRA: content lives in one transformer block of SDXL, style in the next.

B-LoRA (Frenkel et al. 2024), arXiv:2403.14572. The blocks are the layer set preset "b-lora". The
paper has no markers; ours switch its branches as everywhere, so that methods compare.
"""

from __future__ import annotations

from ..papers import B_LORA
from ..types import Bank, Gates, Routing, constant_gates
from .methods import FUSION, FusionTraits, gammas_on_layer_sets


@FUSION.register(
    "B-LoRA",
    paper=B_LORA,
    traits=FusionTraits(markers=True, layer_sets=False, pinned_layer_set="b-lora"),
)
def b_lora(bank: Bank, routing: Routing) -> Gates:
    """Content on one SDXL block, style on the next; the layer sets are the method's own."""
    return constant_gates(gammas_on_layer_sets(bank, routing))
