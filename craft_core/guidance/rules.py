"""The family of guidance rules: which evaluations of the model a step needs, and their combination.

A rule is a function (predictions, step, *, knobs) -> prediction. `predictions` holds one tensor for
each evaluation that the rule declares, by its name: of the same shape, of one kind (denoised or
noise), of the same rows. A rule looks up only those that it needs at this step, and no others are
computed. To add one: a file named after it, one import in __init__.py, a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CraftError
from ..registry import Method, Registry
from ..time import Moment
from ..types import ROLES, Role

GUIDANCE = Registry("guidance rule")
SAMPLERS_OWN = ("cond", "uncond")  # the evaluations that a sampler runs itself


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the model that a rule combines.

    name: what the rule calls its prediction; "cond" and "uncond" are the two a sampler runs itself.
    prompted: under the prompt, else under the negative one. branches: whether the LoRAs act in it,
    else the backbone predicts alone. roles: whose LoRAs. fraction: the knob that says at what part
    of their strength they act, "" for all of it.
    """

    name: str
    prompted: bool
    branches: bool
    roles: tuple[Role, ...] = ROLES
    fraction: str = ""


@dataclass(frozen=True)
class Step:
    """What a rule knows of the step whose predictions it combines.

    scale: the sampler's cfg. moment: when in sampling the model is called. shares: of content and
    of style, in [0, 1], how much of the difference between a role's weight and 1 counts now.
    """

    scale: float
    moment: Moment
    shares: tuple[float, float] = (1.0, 1.0)

    @property
    def is_unguided(self) -> bool:
        """Whether cfg is 1, as the host compares it: then it runs no unconditional evaluation."""
        return math.isclose(self.scale, 1.0)


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


def sampled(predictions: Mapping[str, Tensor], step: Step) -> Tensor:
    """What a sampler itself makes of its two evaluations; at cfg 1 there is only one."""
    if step.is_unguided:
        return predictions["cond"]
    return guided(predictions["cond"], predictions["uncond"], step.scale)


def guided(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """uncond + scale (cond - uncond): 0 gives uncond, 1 gives cond up to rounding."""
    return uncond + scale * (cond - uncond)


def needed(rule: Method, step: Step, knobs: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the evaluations that a rule looks up at this step, as it declares them."""
    probe = _Probe(declared.name for declared in rule.traits)
    rule.function(probe, step, **knobs)
    return tuple(name for name in probe if name in probe.looked_up)


class _Probe(Mapping[str, Tensor]):
    """Predictions of one number each, that remembers which were looked up."""

    def __init__(self, names: Iterator[str]) -> None:
        self._made = {name: torch.zeros(1, 1) for name in names}
        self.looked_up: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.looked_up.add(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def row_gates(
    gates: Tensor,
    asked: Evaluation,
    roles: Sequence[Role] = (),
    knobs: Mapping[str, Any] | None = None,
) -> Tensor:
    """The gates of the rows that compute an evaluation.

    gates: (views, layers, branches), what rows with all branches get now. Where the branches act,
    the same tensor, each view under its own; else (1, layers, branches) zeros: the backbone alone,
    which needs no second view. roles: of the branches; other roles' than the evaluation's get 0.
    knobs: of the rule, with the fraction that the evaluation names.
    """
    if not asked.branches:
        return torch.zeros_like(gates[:1])
    if asked.roles == ROLES and not asked.fraction:
        return gates
    part = (knobs or {})[asked.fraction] if asked.fraction else 1.0
    return gates * gates.new_tensor([part if role in asked.roles else 0.0 for role in roles])
