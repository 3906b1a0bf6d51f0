"""The family of guidance rules: which evaluations of the model a step needs, and their combination.

A rule is a function (predictions, scale, moment, *, knobs) -> prediction. `predictions` holds one
tensor for each evaluation that the rule declares, by its name: of the same shape, of one kind
(denoised or noise), of the same rows. `scale` is the sampler's cfg. To add one: a file named after
it, one import in __init__.py, a test.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CraftError
from ..registry import Method, Registry

GUIDANCE = Registry("guidance rule")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the model that a rule combines.

    name: what the rule calls its prediction; "cond" and "uncond" are the two a sampler runs itself.
    prompted: under the prompt, else under the negative one. branches: whether the LoRAs act in it,
    else the backbone predicts alone.
    """

    name: str
    prompted: bool
    branches: bool


def evaluation(rule: Method, name: str) -> Evaluation:
    """The evaluation that a rule calls so; CraftError where it declares none of that name."""
    for declared in rule.traits:
        if declared.name == name:
            return declared
    raise CraftError(
        f"The guidance rule {rule.key} asks for no evaluation {name!r}",
        f"It asks for {', '.join(declared.name for declared in rule.traits)}",
        "Use one of these, or another rule",
    )


def guided(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """uncond + scale (cond - uncond): 0 gives uncond, 1 gives cond up to rounding."""
    return uncond + scale * (cond - uncond)


def row_gates(gates: Tensor, asked: Evaluation) -> Tensor:
    """The gates of the rows that compute an evaluation.

    gates: (views, layers, branches), what rows with all branches get now. Where the branches act,
    the same tensor, each view under its own; else (1, layers, branches) zeros: the backbone alone,
    which needs no second view.
    """
    return gates if asked.branches else torch.zeros_like(gates[:1])
