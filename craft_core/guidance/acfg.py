"""Asymmetric guidance: only conditional rows see the LoRAs, unconditional rows see the backbone.

CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 9-10 and 17-18: W_t^cond = W* + a_c(t) dW_c on I_c +
a_s(t) dW_s on I_s, W^uncond = W*. The two predictions are combined as always (Eqs. 11 and 19).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..papers import CRAFT
from .rules import GUIDANCE, Evaluation, Step, sampled


@GUIDANCE.register(
    "ACFG",
    paper=CRAFT,
    traits=(
        Evaluation("cond", prompted=True, branches=True),
        Evaluation("uncond", prompted=False, branches=False),
    ),
)
def acfg(predictions: Mapping[str, Tensor], step: Step) -> Tensor:
    """The LoRAs act in the conditional prediction; the unconditional one is the backbone's."""
    return sampled(predictions, step)
