"""Rules that ask for more evaluations than a sampler runs: equal to a loop over separately patched
models, and bitwise nothing where they ask for nothing."""

from __future__ import annotations

import comfy.samplers
import oracle
import pytest
import tiny
import torch
from comfy_extras.nodes_cfg import CFGNorm
from craft_lora_pack.comfy_adapter.engine.engine import attach, recorded, set_guidance
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import Gates
from oracle import LAW, distance
from two_loras import NEGATIVE, POSITIVE, STRENGTHS, bank_of, loras, routed

APART = {"content_weight": 1.6, "style_weight": 0.7}
TOGETHER = {"weight": 2.0}
EVERY = {"weight": 1.5, "content_weight": 1.6, "style_weight": 0.7}


class RolesByHand(oracle.TwoModels):
    """Every prediction of role guidance from a model of its own: the backbone, never changed, or a
    second one whose weights are set before each call. Combined as the formula is written."""

    def __init__(self, backbone, twin, deltas, *, weights, shares=None, fraction=None):
        """weights: of both roles, content and style. shares: progress -> (content, style).
        fraction: of the strength in the version that a role is guided away from; None: none."""
        super().__init__(backbone, twin, deltas, None)
        self.by_hand, self.shares = weights, shares or (lambda progress: (1.0, 1.0))
        self.fraction = fraction

    def patched(self, content, style, *call):
        self.strengths = lambda progress: (STRENGTHS[0] * content, STRENGTHS[1] * style)
        self.merge(0.0)
        batch = comfy.samplers.calc_cond_batch
        return batch(self.twin.model, [self.conds["positive"]], *call)[0]

    def predict_noise(self, x, timestep, model_options, seed=None):
        call = (x, timestep, model_options)
        position = oracle.step_position(
            float(timestep[0]), model_options["transformer_options"]["sample_sigmas"]
        )
        of_content, of_style = self.shares(position)
        batch = comfy.samplers.calc_cond_batch
        uncond, backbone = batch(
            self.inner_model, [self.conds["negative"], self.conds["positive"]], *call
        )
        both, content, style = self.by_hand
        total = uncond + self.cfg * (backbone - uncond) + (self.patched(1, 1, *call) - backbone)
        for weight, share, on in (
            (both, max(of_content, of_style), (1, 1)),
            (content, of_content, (1, 0)),
            (style, of_style, (0, 1)),
        ):
            stronger = self.patched(*on, *call)
            weaker = backbone
            if self.fraction is not None:
                weaker = self.patched(*(self.fraction * one for one in on), *call)
            total = total + share * (weight - 1.0) * (stronger - weaker)
        return total


def weights_of(settings):
    return [settings.get(n, 1.0) for n in ("weight", "content_weight", "style_weight")]


def pair(settings, cfg, *, rule="role", course=None, shares=None, fraction=None):
    """(our guider, the loop by hand) on the same weights and files."""
    model, other, twin = (tiny.sdxl() for _ in range(3))
    layers = model_layers(model)
    states = loras(layers)
    knobs = settings if fraction is None else {**settings, "fraction": fraction}
    guided = set_guidance(routed(model, states), rule, knobs, course)
    ours = oracle.guider(guided, POSITIVE, NEGATIVE, cfg)
    deltas = [oracle.dense_deltas(state, layers) for state in states]
    reference = RolesByHand(
        other, twin, deltas, weights=weights_of(settings), shares=shares, fraction=fraction
    )
    reference.set_conds(POSITIVE, NEGATIVE)
    reference.set_cfg(cfg)
    return ours, reference


def sampled(model, cfg, latent=None, **others):
    return oracle.sample(
        oracle.guider(model, POSITIVE, NEGATIVE, cfg), latent or tiny.latent(), **others
    )


@pytest.fixture(scope="module")
def model():
    return tiny.sdxl()


@pytest.fixture(scope="module")
def ours(model):
    return routed(model, loras(model_layers(model)))


def evaluations(model, cfg, **others):
    """(the samples, how many evaluations of each name the run took)."""
    watched, recorder = recorded(model)
    samples = sampled(watched, cfg, **others)
    (record,) = recorder.records.values()
    return samples, dict(record.evaluations)


# Where nothing more is asked for, nothing is done


@pytest.mark.parametrize("rule", ["role", "weak"])
def test_at_cfg_1_weights_of_1_are_bitwise_the_routed_model_in_one_evaluation(ours, rule):
    calls = []

    def counting(apply_model, given):
        calls.append(len(given["input"]))
        return apply_model(given["input"], given["timestep"], **given["c"])

    guided = set_guidance(ours, rule)
    guided.set_model_unet_function_wrapper(counting)
    samples, counted = evaluations(guided, 1.0, latent=tiny.latent(2))
    assert torch.equal(samples, sampled(ours, 1.0, tiny.latent(2)))
    assert calls == [2] * 4 and counted == {"cond": 4}


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_weight_of_cfg_is_acfg_bitwise_in_as_many_evaluations(ours, cfg):
    samples, counted = evaluations(set_guidance(ours, "role", {"weight": cfg}), cfg)
    acfg = oracle.sample(acfg_guider(ours, POSITIVE, NEGATIVE, cfg, True), tiny.latent())
    assert torch.equal(samples, acfg)
    assert counted == {"cond": 4} | ({"uncond": 4} if cfg != 1.0 else {})


def test_a_model_without_routed_loras_is_sampled_as_it_is(model):
    plain = sampled(model, 4.0)
    assert torch.equal(sampled(set_guidance(model, "role", EVERY), 4.0), plain)


# Against separately patched models


@pytest.mark.parametrize("settings", [{}, TOGETHER, APART, EVERY], ids=str)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_role_guidance_is_a_loop_over_separately_patched_models(settings, cfg):
    a, b = (oracle.sample(guider, tiny.latent()) for guider in pair(settings, cfg))
    assert distance(a, b) <= LAW


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_sde", "dpmpp_2m_sde"])
def test_every_kind_of_sampler_gives_the_loops_result(sampler):
    a, b = (
        oracle.sample(guider, tiny.latent(2), sampler=sampler, steps=5) for guider in pair(EVERY, 3)
    )
    assert torch.isfinite(a).all()
    assert distance(a, b) <= LAW


@pytest.mark.parametrize("settings", [TOGETHER, APART], ids=str)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_weaker_self_is_a_model_patched_at_a_fraction_of_the_strength(settings, cfg):
    made = pair(settings, cfg, rule="weak", fraction=0.25)
    a, b = (oracle.sample(guider, tiny.latent()) for guider in made)
    assert distance(a, b) <= LAW


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_weights_follow_a_schedule_at_each_of_a_samplers_evaluations(sampler):
    def linear(progress):
        return 1.0 - progress, progress

    made = pair(EVERY, 1.0, course=Schedule("linear"), shares=linear)
    a, b = (oracle.sample(guider, tiny.latent(), sampler=sampler) for guider in made)
    assert distance(a, b) <= LAW
    steady = oracle.sample(pair(EVERY, 1.0)[0], tiny.latent(), sampler=sampler)
    assert distance(a, steady) > 100 * LAW


def masked(seed, left: bool):
    mask = torch.zeros(1, 16, 16)
    mask[..., :8], mask[..., 8:] = float(left), float(not left)
    return tiny.conditioning(seed, mask=mask, mask_strength=0.8)


def area(x, y, width, height):
    return {"area": (height, width, y, x), "set_area_to_bounds": False, "strength": 1.0}


CONDITIONINGS = {
    "several": [*POSITIVE, *tiny.conditioning(7, tokens=14)],
    "areas": tiny.conditioning(1, **area(0, 0, 8, 16)) + tiny.conditioning(7, **area(8, 0, 8, 16)),
    "masks": [*masked(1, True), *masked(7, False)],
    "part of the steps": tiny.conditioning(1, start_percent=0.0, end_percent=0.5)
    + tiny.conditioning(7, start_percent=0.5, end_percent=1.0),
}


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_every_conditioning_is_evaluated_in_every_role(name):
    results = []
    for guider in pair(EVERY, 3.0):
        guider.set_conds(CONDITIONINGS[name], NEGATIVE)
        results.append(oracle.sample(guider, tiny.latent()))
    assert distance(*results) <= LAW


def test_controlnet_acts_in_every_evaluation():
    net, results = tiny.control(), []
    for guider in pair(EVERY, 3.0):
        positive = [
            [c, {**d, "control": net, "control_apply_to_uncond": False}] for c, d in POSITIVE
        ]
        guider.set_conds(positive, NEGATIVE)
        results.append(oracle.sample(guider, tiny.latent()))
    assert distance(*results) <= LAW
    plain = oracle.sample(pair(EVERY, 3.0)[0], tiny.latent())
    assert distance(results[0], plain) > 100 * LAW


# Limits


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("absent", ["content", "style"])
def test_with_one_lora_absent_weights_apart_are_the_other_ones_alone(model, cfg, absent):
    states = loras(model_layers(model))
    strengths = (0.0, 0.4) if absent == "content" else (0.7, 0.0)
    alone = routed(model, states, strengths=strengths)
    other = "style" if absent == "content" else "content"
    apart = {f"{other}_weight": 1.8, f"{absent}_weight": 5.0}
    a = sampled(set_guidance(alone, "role", apart), cfg)
    b = sampled(set_guidance(alone, "role", {"weight": 1.8}), cfg)
    assert distance(a, b) <= LAW
    assert distance(a, sampled(set_guidance(alone, "role"), cfg)) > 100 * LAW


@pytest.mark.parametrize("norm", ["off", "rescale", "orthogonal"])
def test_images_in_a_batch_do_not_touch_each_other(ours, norm):
    guided = set_guidance(ours, "role", {**EVERY, "norm": norm})
    both = tiny.latent(2, seed=5)
    together = sampled(guided, 3.0, both, denoise=0.5)
    alone = sampled(guided, 3.0, {"samples": both["samples"][:1]}, denoise=0.5)
    assert distance(together[:1], alone) <= LAW
    free = sampled(set_guidance(ours, "role", EVERY), 3.0, both, denoise=0.5)
    assert (distance(together, free) > 100 * LAW) == (norm != "off")


def test_views_of_composite_are_averaged_in_every_evaluation(model):
    """Two views with a LoRA each: the differences of content and style add up to that of both, so
    equal weights apart are the weight of both."""
    bank = bank_of(model, loras(model_layers(model)))
    table = torch.zeros(2, len(bank.layers), 2)
    table[0, :, 0] = table[1, :, 1] = 1.0
    apart = attach(model, bank, Gates(lambda moment: table, views=2))
    a = sampled(set_guidance(apart, "role", {"content_weight": 2.0, "style_weight": 2.0}), 1.0)
    b = sampled(set_guidance(apart, "role", {"weight": 2.0}), 1.0)
    assert distance(a, b) <= LAW
    assert distance(a, sampled(apart, 1.0)) > 100 * LAW


def test_two_routers_in_a_row_act_in_every_evaluation(model):
    """The content LoRA in one bank and the style LoRA in another: as both in one."""
    states = loras(model_layers(model))
    first = routed(model, states, strengths=(STRENGTHS[0], 0.0))
    second = bank_of(model, states, (0.0, STRENGTHS[1]))
    ones = torch.ones(1, len(second.layers), 2) * torch.tensor([0.0, STRENGTHS[1]])
    stacked = attach(first, second, Gates(lambda moment: ones))
    a = sampled(set_guidance(stacked, "role", EVERY), 3.0)
    b = sampled(set_guidance(routed(model, states), "role", EVERY), 3.0)
    assert distance(a, b) <= LAW


def test_nodes_that_change_the_guided_prediction_see_the_roles(ours):
    """CFGNorm rescales what guidance made: with it the picture changes, with or without a role."""
    normed = CFGNorm.execute(set_guidance(ours, "role", EVERY), 0.5).result[0]
    a, b = sampled(normed, 4.0), sampled(set_guidance(ours, "role", EVERY), 4.0)
    c = sampled(CFGNorm.execute(ours, 0.5).result[0], 4.0)
    assert distance(a, b) > 100 * LAW and distance(a, c) > 100 * LAW


# What it costs


def test_eight_steps_with_a_window_of_three_are_eleven_evaluations(ours):
    window = {"content_start": 0.28, "content_end": 0.58}
    window |= {"style_start": 0.28, "style_end": 0.58}  # steps 2, 3 and 4 of 0 to 7
    guided = set_guidance(ours, "role", TOGETHER, Schedule("window", window))
    _, counted = evaluations(guided, 1.0, steps=8)
    assert counted == {"cond": 8, "backbone": 3}


def test_each_weight_costs_the_evaluations_that_it_needs(ours):
    assert evaluations(set_guidance(ours, "role", APART), 1.0)[1] == dict.fromkeys(
        ("cond", "backbone", "content", "style"), 4
    )
    assert evaluations(set_guidance(ours, "role"), 3.0)[1] == dict.fromkeys(
        ("cond", "uncond", "backbone"), 4
    )


def test_a_run_leaves_no_rule_behind(ours):
    before = sampled(ours, 3.0)
    sampled(set_guidance(ours, "role", EVERY), 3.0)
    assert torch.equal(sampled(ours, 3.0), before)
    assert "sampler_post_cfg_function" not in ours.model_options
