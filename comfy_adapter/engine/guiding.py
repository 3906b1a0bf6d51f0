"""The evaluations that a guidance rule asks for beyond a sampler's own two, and their combination.

The host combines its two as always. What the rule makes of all predictions beyond that is then
added, before the host's other post-CFG functions see the result, so that nodes which rescale or
extend guidance keep their effect. Each further evaluation is a call of the host's own, with other
gates: it is batched with nothing, and in it the prompt has the place that it has everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
from torch import Tensor

from ...craft_core.fusion.compose import Timed
from ...craft_core.guidance import (
    GUIDANCE,
    SAMPLERS_OWN,
    Evaluation,
    Step,
    evaluation,
    needed,
    row_gates,
    sampled,
    weights_now,
)
from ...craft_core.registry import Method
from ...craft_core.time import Moment
from ...craft_core.types import Role
from .conditionings import ConditioningKinds

DEFAULT_RULE = "cfg"  # the rule where no node sets one: a plain KSampler on a routed MODEL
_POST_CFG = "sampler_post_cfg_function"


@dataclass(frozen=True)
class Guiding:
    """A guidance rule with its settings, as a MODEL carries it.

    knobs: all of the rule's, checked. course: the shares of content and style over time that their
    weights follow; None for 1 throughout. stays: whether a sampling node keeps it where its own
    menu names no rule.
    """

    rule: Method = field(default_factory=lambda: GUIDANCE[DEFAULT_RULE])
    knobs: Mapping[str, Any] = field(default_factory=dict)
    course: Timed | None = None
    stays: bool = False

    def weights(self, moment: Moment) -> tuple[float, float] | None:
        """w(t) of content and of style; None where the rule has no weights."""
        return weights_now(self.step(1.0, moment), self.knobs)

    def step(self, scale: float, moment: Moment) -> Step:
        if self.course is None:
            return Step(scale, moment)
        return Step(scale, moment, self.course.strengths(moment))

    def evaluation(self, name: str) -> Evaluation:
        return evaluation(self.rule, name)

    def gates(self, table: Tensor, name: str, roles: Sequence[Role]) -> Tensor:
        """The gates of the rows that compute the evaluation called so."""
        return row_gates(table, self.evaluation(name), roles, self.knobs)

    def more(self, step: Step) -> list[str]:
        """The evaluations that the rule needs at this step and no sampler runs itself."""
        return [one for one in needed(self.rule, step, self.knobs) if one not in SAMPLERS_OWN]

    def may_need_more(self) -> bool:
        return any(one.name not in SAMPLERS_OWN for one in self.rule.traits)


def guide(
    model_options: dict[str, Any], guiding: Guiding, kinds: ConditioningKinds,
    at: Callable[[Tensor], Moment],
) -> None:  # fmt: skip
    """Have a sampling run follow the rule: the first of its post-CFG functions combines.

    at: when in the run the model is called at these sigmas.
    """
    if not guiding.may_need_more():
        return

    def combine(given: dict[str, Any]) -> Tensor:
        step = guiding.step(given["cond_scale"], at(given["sigma"]))
        more = guiding.more(step)
        if not more:
            return given["denoised"]
        predictions = {"cond": given["cond_denoised"], "uncond": given["uncond_denoised"]}
        for name in more:
            every_view = guiding.evaluation(name).branches
            predictions[name] = _evaluated(kinds.named(given["cond"], name, every_view), given)
        made = guiding.rule.function(predictions, step, **guiding.knobs)
        return given["denoised"] + (made - sampled(predictions, step))

    model_options[_POST_CFG] = [combine, *model_options.get(_POST_CFG, [])]


def _evaluated(entries: list[dict[str, Any]], given: dict[str, Any]) -> Tensor:
    """The prediction of these conditionings, by the way the host takes to evaluate its own."""
    model, x, sigma, options = (given[k] for k in ("model", "input", "sigma", "model_options"))
    way = options.get("sampler_calc_cond_batch_function")
    if way is None:
        return comfy.samplers.calc_cond_batch(model, [entries], x, sigma, options)[0]
    conds = {"conds": [entries, None]}
    return way({**conds, "input": x, "sigma": sigma, "model": model, "model_options": options})[0]
