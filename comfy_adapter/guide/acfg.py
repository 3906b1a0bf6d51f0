"""ACFG and the other guidance rules through the host's own sampler and guider: only what the MODEL
carries differs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import comfy.samplers
import nodes as host_nodes
from torch import Tensor

from ...craft_core.fusion.compose import Timed
from ...craft_core.guidance import GUIDANCE
from ...craft_core.guidance.reach import overdriven, reaches
from ...craft_core.messages import NO_GUIDANCE, NOT_ROUTED
from ..draw.activity import recorded_sheet
from ..engine.engine import (
    is_routed,
    recorded,
    rule_that_stays,
    set_asymmetric,
    set_guidance,
    strengths_by_role,
)
from ..engine.recorder import Recorder


@dataclass(frozen=True)
class ChosenRule:
    """A guidance rule that a user chose instead of the `asymmetric` switch.

    settings: its knobs. course: the schedule that the weights of content and style follow.
    """

    key: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    course: Timed | None = None


def objections(
    model: Any, cfg: float, asymmetric: bool, rule: ChosenRule | None = None
) -> list[str]:
    """What a user should know before sampling."""
    found = [] if is_routed(model) else [NOT_ROUTED]
    by_switch = rule is None and rule_that_stays(model) is None
    if by_switch and asymmetric and math.isclose(cfg, 1.0):
        return [*found, NO_GUIDANCE]
    if by_switch:
        rule = ChosenRule("acfg" if asymmetric else "cfg")
    if rule is not None:
        settings = GUIDANCE[rule.key].knobs(dict(rule.settings))
        by = reaches(rule.key, cfg, settings)
        found += overdriven(strengths_by_role(model), by)
    return found


def acfg_guider(
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    asymmetric: bool,
    rule: ChosenRule | None = None,
) -> comfy.samplers.CFGGuider:
    """The host's guider on a clone of MODEL that says which rows the LoRAs act on."""
    guider = comfy.samplers.CFGGuider(_under(model, asymmetric, rule))
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


class Sampled(NamedTuple):
    """latent: LATENT. activity: the map of who acted where and when; None where nothing is routed.
    cost: how often the model was evaluated, where the rule had it evaluated more often; else ""."""

    latent: dict[str, Any]
    activity: Tensor | None
    cost: str


def acfg_sample(
    model: Any,
    asymmetric: bool,
    seed: int,
    steps: int,
    *arguments: Any,
    rule: ChosenRule | None = None,
) -> Sampled:
    """The host's KSampler on that clone; arguments as its `common_ksampler` takes them from cfg on.

    Live preview and progress are the host's own.
    """
    watched, recorder = recorded(_under(model, asymmetric, rule))
    (latent,) = host_nodes.common_ksampler(watched, seed, steps, *arguments)
    return Sampled(latent, recorded_sheet(recorder, steps), _cost(recorder, steps))


def _under(model: Any, asymmetric: bool, rule: ChosenRule | None) -> Any:
    if rule is None:
        kept = rule_that_stays(model)
        return model.clone() if kept else set_asymmetric(model, asymmetric)
    return set_guidance(model, rule.key, dict(rule.settings), rule.course)


def _cost(recorder: Recorder, steps: int) -> str:
    for record in recorder.records.values():
        if record.took_more:
            parts = ", ".join(f"{count} {name}" for name, count in record.evaluations.items())
            total = record.evaluations.total()
            return f"{steps} steps took {total} evaluations of the model: {parts}."
    return ""
