"""One picture by two of the host's samplers in a row: the picture of one sampler, where the Router
knows the whole run's sigmas."""

from __future__ import annotations

import functools

import comfy.samplers
import nodes
import pytest
import tiny
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.time import whole_sigmas
from oracle import LAW, distance
from three_loras import case
from two_loras import NEGATIVE, POSITIVE

STEPS, CUT = 6, 3
ORDER = (0, 2)
SCHEDULES = {
    "none": None,
    "steps": Schedule("cosine", clock="steps"),
    "model": Schedule("cosine", clock="model"),
}
METHODS = {
    **{key: (key, {}) for key in FUSION.keys()},
    "switch": ("switch", {"every": 2}),  # the cut is in the middle of a turn
    "np_lora-rising": ("np_lora", {"course": "rising", "mu": 4.0}),
    "k_lora-random": ("k_lora", {"selection": "random", "content_share": 0.5}),
}


def whole_run(scheduler, steps=STEPS):
    """As BasicScheduler gives them to the Router."""
    sigmas = BasicScheduler.execute(case("sdxl").model, scheduler, steps, 1.0).result[0]
    return whole_sigmas(sigmas.tolist())


def routed(method, schedule, whole=None):
    made, (key, settings) = case("sdxl"), METHODS[method]
    bank = made.bank(order=ORDER)
    gates = FUSION[key].function(bank, made.routing(bank, ORDER), **FUSION[key].knobs(settings))
    return engine.attach(made.model, bank, compose(gates, bank, SCHEDULES[schedule]), whole)


def sampled(model, scheduler, cuts=(), sampler="euler"):
    """By KSampler (Advanced): one for the steps between two cuts each."""
    latent = tiny.latent(size=8)
    ends = [0, *cuts, STEPS]
    with torch.inference_mode():
        for number, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
            noise = "disable" if number else "enable"
            leftover = "enable" if end < STEPS else "disable"
            (latent,) = nodes.KSamplerAdvanced().sample(
                model, noise, 3, STEPS, 4.0, sampler, scheduler, POSITIVE, NEGATIVE, latent,
                start, end, leftover,
            )  # fmt: skip
    return latent["samples"]


@functools.cache
def at_once(method, schedule, scheduler):
    return sampled(routed(method, schedule), scheduler)


@pytest.mark.parametrize("scheduler", ["normal", "karras"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", METHODS)
def test_two_samplers_make_the_picture_of_one(method, schedule, scheduler):
    known = routed(method, schedule, whole_run(scheduler))
    whole = at_once(method, schedule, scheduler)
    assert torch.equal(sampled(known, scheduler), whole)
    assert distance(sampled(known, scheduler, [CUT]), whole) <= LAW


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("rule", ["role", "weak"])
def test_weights_of_guidance_go_on_in_the_second_sampler(rule, sampler):
    settings = {"weight": 1.8, "content_weight": 1.4, "style_weight": 0.6}
    model = routed("direct", "none", whole_run("karras"))
    guided = engine.set_guidance(model, rule, settings, Schedule("linear"))
    whole, parts = (sampled(guided, "karras", cuts, sampler) for cuts in ((), [CUT]))
    assert distance(parts, whole) <= LAW
    apart = engine.set_guidance(routed("direct", "none"), rule, settings, Schedule("linear"))
    assert distance(sampled(apart, "karras", [CUT], sampler), whole) > 100 * LAW


@pytest.mark.parametrize(
    ("method", "schedule"), [("switch", "none"), ("k_lora", "none"), ("direct", "steps")]
)
def test_without_the_sigmas_what_counts_steps_begins_anew(method, schedule):
    apart = sampled(routed(method, schedule), "karras", [CUT])
    assert distance(apart, at_once(method, schedule, "karras")) > 0.01


@pytest.mark.parametrize("method", ["switch", "k_lora"])
def test_a_sampler_for_which_the_host_leaves_a_level_out_goes_on_too(method):
    """The host makes the sigmas of one step more for dpm_2, and leaves out the last but one."""
    model = routed(method, "steps", whole_run("karras", STEPS + 1))
    found = [sampled(model, "karras", cuts, "dpm_2") for cuts in ((), [CUT])]
    assert distance(*found) <= LAW


def test_sigmas_of_another_run_are_an_error_that_says_so():
    model = routed("switch", "none", whole_run("karras")[2:])
    with pytest.raises(CraftError, match="outside the whole_sigmas"):
        sampled(model, "karras")


def test_the_host_has_the_samplers_that_leave_a_level_out():
    """web/js/lib/insertion/insertion.js names them."""
    found = comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
    assert found == {"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"}
