"""Every rule with every fusion method and clock: one step of Euler is affine in the prediction, so
the samples under a rule are the same combination of the samples of its evaluations."""

from __future__ import annotations

import functools
from dataclasses import replace

import nodes
import pytest
import tiny
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.guidance import GUIDANCE, Step, needed
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.time import whole_sigmas
from oracle import LAW, distance
from three_loras import case
from two_loras import NEGATIVE, POSITIVE

STEPS, AT, CFG = 6, 2, 3.0
ORDER = (0, 1, 2)
CLOCKS = {
    "none": None,
    "steps": Schedule("cosine", clock="steps"),
    "model": Schedule("linear", clock="model"),
}
SETTINGS = {"weight": 1.5, "content_weight": 1.7, "style_weight": 0.4}
RULES = [rule for rule in GUIDANCE if "weight" in {p.name for p in rule.parameters}]


@functools.cache
def whole():
    sigmas = BasicScheduler.execute(case("sdxl").model, "normal", STEPS, 1.0).result[0]
    return whole_sigmas(sigmas.tolist())


def gates_of(method, clock):
    made = case("sdxl")
    bank = made.bank(order=ORDER)
    chosen = FUSION[method]
    gates = chosen.function(bank, made.routing(bank, ORDER), **chosen.knobs({}))
    return gates.bank or bank, compose(gates, bank, CLOCKS[clock])


def routed(bank, gates):
    return engine.attach(case("sdxl").model, bank, gates, whole())


def only(bank, gates, asked, fraction):
    """The gates with those of an evaluation's roles alone, at its part of their strength."""
    part = fraction if asked.fraction else 1.0
    on = [part if asked.branches and b.role in asked.roles else 0.0 for b in bank.branches]
    return replace(gates, at=lambda moment: gates.at(moment) * torch.tensor(on), constant=None)


def one_step(model, positive, cfg):
    """The third of six steps, from one noisy latent."""
    latent = tiny.latent(size=8, seed=5)
    with torch.inference_mode():
        return nodes.KSamplerAdvanced().sample(
            model, "disable", 3, STEPS, cfg, "euler", "normal", positive, NEGATIVE, latent,
            AT, AT + 1, "enable",
        )[0]["samples"]  # fmt: skip


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("method", FUSION.keys())
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_the_samples_are_the_rules_combination_of_its_evaluations_samples(rule, method, clock):
    bank, gates = gates_of(method, clock)
    course, knobs = Schedule("linear"), rule.knobs(SETTINGS)
    step = Step(CFG, None, course.strengths(engine.Timeline.of(whole()).at(whole()[AT])))
    parts = {}
    for name in needed(rule, step, knobs):
        (asked,) = (one for one in rule.traits if one.name == name)
        alone = routed(bank, only(bank, gates, asked, knobs.get("fraction")))
        parts[name] = one_step(alone, POSITIVE if asked.prompted else NEGATIVE, 1.0)
    assert parts.keys() == {one.name for one in rule.traits}
    model = engine.set_guidance(routed(bank, gates), rule.key, SETTINGS, course)
    found = one_step(model, POSITIVE, CFG)
    assert distance(found, rule.function(parts, step, **knobs)) <= LAW
    assert distance(found, parts["cond"]) > 100 * LAW
