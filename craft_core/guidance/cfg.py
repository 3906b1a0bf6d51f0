"""Classifier-free guidance: away from what the model makes without the prompt.

Ho and Salimans 2022, arXiv:2207.12598. In CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 11 and 19, the
same combination is written (1 + omega) cond - omega uncond, with omega = scale - 1. With the LoRAs
under both predictions it is the ablation "standard CFG" of App. C.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..papers import CLASSIFIER_FREE_GUIDANCE
from .rules import GUIDANCE, Evaluation, Step, sampled


@GUIDANCE.register(
    "Standard CFG",
    paper=CLASSIFIER_FREE_GUIDANCE,
    traits=(
        Evaluation("cond", prompted=True, branches=True),
        Evaluation("uncond", prompted=False, branches=True),
    ),
)
def cfg(predictions: Mapping[str, Tensor], step: Step) -> Tensor:
    """The LoRAs act in the conditional and in the unconditional prediction."""
    return sampled(predictions, step)
