"""The engine with other things that a graph may have: areas, ControlNet, other packs, dtypes."""

from __future__ import annotations

import comfy.patcher_extension
import comfy.samplers
import comfy.sd
import oracle
import pytest
import tiny
import torch
from comfy.hooks import set_default_conds_and_combine
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from comfy_extras.nodes_sag import SelfAttentionGuidance
from craft_lora_pack.comfy_adapter.engine.engine import attach, set_asymmetric, set_guidance
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import Bank, Branch, Factors, Gates, constant_gates
from oracle import LAW, distance
from two_loras import (
    NEGATIVE,
    POSITIVE,
    asymmetric_pair,
    bank_of,
    cosine,
    loras,
    routed,
    two_loaders,
)


def compare(change=lambda guider: None, positive=POSITIVE, negative=NEGATIVE, latent=None):
    """Our ACFG and the two-model reference under the same conditionings and the same change."""
    ours, reference = asymmetric_pair("sdxl", Schedule("cosine"), cosine)
    results = []
    for guider in (ours, reference):
        guider.set_conds(positive, negative)
        change(guider)
        results.append(oracle.sample(guider, latent or tiny.latent()))
    return distance(*results)


def area(x, y, width, height):
    return {"area": (height, width, y, x), "set_area_to_bounds": False, "strength": 1.0}


def masked(seed, left: bool):
    mask = torch.zeros(1, 16, 16)
    mask[..., :8] = float(left)
    mask[..., 8:] = float(not left)
    return tiny.conditioning(seed, mask=mask, mask_strength=0.8)


CONDITIONINGS = {
    "several positives": ([*POSITIVE, *tiny.conditioning(7)], NEGATIVE),
    "several negatives": (POSITIVE, [*NEGATIVE, *tiny.conditioning(8, tokens=14)]),
    "areas": (
        [*tiny.conditioning(1, **area(0, 0, 8, 16)), *tiny.conditioning(7, **area(8, 0, 8, 16))],
        NEGATIVE,
    ),
    "areas in the negative": (POSITIVE, tiny.conditioning(2, **area(4, 4, 8, 8)) + NEGATIVE),
    "masks": ([*masked(1, True), *masked(7, False)], NEGATIVE),
    "part of the steps": (
        tiny.conditioning(1, start_percent=0.0, end_percent=0.5)
        + tiny.conditioning(7, start_percent=0.5, end_percent=1.0),
        NEGATIVE,
    ),
}


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_every_conditioning_is_told_apart(name):
    positive, negative = CONDITIONINGS[name]
    assert compare(positive=positive, negative=negative) <= LAW


def test_rows_split_for_memory_into_separate_calls_keep_their_roles(monkeypatch):
    ours, reference = asymmetric_pair("sdxl", Schedule("cosine"), cosine)
    calls = []
    base = ours.model_patcher.model

    def counting(apply_model, arguments):
        calls.append(arguments["input"].shape[0])
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    ours.model_patcher.set_model_unet_function_wrapper(counting)
    ours.model_options = ours.model_patcher.model_options
    monkeypatch.setattr(base, "memory_required", lambda *args, **kwargs: 1e30)
    a = oracle.sample(ours, tiny.latent(2))
    assert set(calls) == {2}, "each conditioning ran in a call of its own"
    monkeypatch.undo()
    assert distance(a, oracle.sample(reference, tiny.latent(2))) <= LAW


@pytest.mark.parametrize("on_negative", [False, True])
def test_controlnet_rows_are_the_same(on_negative):
    net = tiny.control()
    positive = [[c, {**d, "control": net, "control_apply_to_uncond": False}] for c, d in POSITIVE]
    negative = [[c, {**d, "control": net, "control_apply_to_uncond": False}] for c, d in NEGATIVE]
    assert compare(positive=positive, negative=negative if on_negative else NEGATIVE) <= LAW


class ForwardSwapper:
    """Another pack: replaces the forward of a layer while the model is injected."""

    def __init__(self, layer, factor):
        self.layer, self.factor, self.original = layer, factor, None

    def inject(self, patcher):
        module = patcher.model.diffusion_model.get_submodule(self.layer)
        original = self.original = module.forward
        module.forward = lambda *a, **k: original(*a, **k) * self.factor

    def eject(self, patcher):
        patcher.model.diffusion_model.get_submodule(self.layer).forward = self.original

    def on(self, model):
        clone = model.clone()
        injection = comfy.patcher_extension.PatcherInjection(self.inject, self.eject)
        clone.set_injections(self.layer, [injection])
        return clone


@pytest.mark.parametrize("order", ["before", "after", "both"])
def test_another_packs_forwards_stack_before_and_after(order):
    """The other pack's scaling of a layer's output and our branches add up, in either order."""
    first = ForwardSwapper("middle_block.1.proj_in", 0.5)
    second = ForwardSwapper("input_blocks.3.1.proj_out", 2.0)
    used = {"before": [first], "after": [second], "both": [first, second]}[order]
    model, twin = tiny.sdxl(), tiny.sdxl()
    states = loras(model_layers(model))
    stacked = routed(first.on(model) if first in used else model, states)
    stacked = second.on(stacked) if second in used else stacked
    for swapper in used:
        module = twin.model.diffusion_model.get_submodule(swapper.layer)
        module.weight.data *= swapper.factor
        module.bias.data *= swapper.factor
    a = oracle.sample(oracle.guider(stacked, POSITIVE, NEGATIVE), tiny.latent())
    b = oracle.sample(oracle.guider(routed(twin, states), POSITIVE, NEGATIVE), tiny.latent())
    assert distance(a, b) <= LAW
    plain = oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent())
    fresh = oracle.sample(oracle.guider(tiny.sdxl(), POSITIVE, NEGATIVE), tiny.latent())
    assert torch.equal(plain, fresh)


def test_weight_patches_under_and_over_the_routed_model_are_kept():
    model = tiny.sdxl()
    layers = model_layers(model)
    ours, extra = loras(layers), tiny.random_lora(layers, 2, seed=31)

    def patched(m):
        return comfy.sd.load_lora_for_models(m, None, extra, 0.5, 0.0)[0]

    results = [
        oracle.sample(oracle.guider(m, POSITIVE, NEGATIVE), tiny.latent())
        for m in (
            patched(two_loaders(model, ours)),
            routed(patched(model), ours),
            patched(routed(model, ours)),
        )
    ]
    assert distance(results[1], results[0]) <= LAW
    assert distance(results[2], results[0]) <= LAW


PATCHES = {
    "FreeU": lambda m: FreeU_V2().execute(m, 1.3, 1.4, 0.9, 0.2)[0],
    "HyperTile": lambda m: HyperTile().execute(m, 64, 2, 0, False)[0],
    "PAG": lambda m: PerturbedAttentionGuidance().execute(m, 2.0)[0],
    "SAG": lambda m: SelfAttentionGuidance().execute(m, 0.5, 2.0)[0],
}


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("name", PATCHES)
def test_attention_and_guidance_patches_act_on_the_routed_model_as_on_a_merged_one(name, order):
    patch = PATCHES[name]
    torch.manual_seed(0)
    model = tiny.sdxl()
    states = loras(model_layers(model))
    ours = routed(patch(model), states) if order == "before" else patch(routed(model, states))
    expected = patch(two_loaders(model, states))
    results = []
    for m in (ours, expected):
        torch.manual_seed(1)  # HyperTile chooses its tiles at random
        results.append(oracle.sample(oracle.guider(m, POSITIVE, NEGATIVE), tiny.latent()))
    assert distance(*results) <= LAW


class ApartDualCFG(Guider_DualCFG):
    """Guider_DualCFG with prompts on one model and the negative on another."""

    def predict_noise(self, x, timestep, model_options, seed=None):
        batch = comfy.samplers.calc_cond_batch
        (negative,) = batch(self.inner_model, [self.conds["negative"]], x, timestep, model_options)
        prompts = [self.conds["middle"], self.conds["positive"]]
        middle, positive = batch(self.twin.model, prompts, x, timestep, model_options)
        return negative + self.cfg2 * (middle - negative) + (positive - middle) * self.cfg1


def test_both_prompts_of_dual_cfg_are_conditional_and_its_negative_is_not():
    model, other, twin = (tiny.sdxl() for _ in range(3))
    states = loras(model_layers(model))
    twin = two_loaders(twin, states)
    results = []
    for kind, m in (
        (Guider_DualCFG, set_asymmetric(routed(model, states), True)),
        (ApartDualCFG, other),
    ):
        guider = kind(m)
        guider.set_conds(POSITIVE, tiny.conditioning(7), NEGATIVE)
        guider.set_cfg(3.0, 2.0)
        guider.twin = twin
        comfy.model_management.load_models_gpu([twin])
        twin.model.current_patcher = twin
        results.append(oracle.sample(guider, tiny.latent()))
    assert distance(*results) <= LAW


def test_perp_negs_two_negatives_stay_on_the_backbone():
    model = tiny.sdxl()
    states = loras(model_layers(model))
    results = []
    for positive_only in (False, True):
        guider = Guider_PerpNeg(set_asymmetric(routed(model, states), True))
        # the same conditioning in every place: only where the LoRAs act can differ
        guider.set_conds(POSITIVE, POSITIVE, POSITIVE)
        guider.set_cfg(1.0 if positive_only else 3.0, 0.0)
        results.append(oracle.sample(guider, tiny.latent()))
    merged = oracle.sample(
        oracle.guider(two_loaders(model, states), POSITIVE, POSITIVE), tiny.latent()
    )
    assert distance(results[0], merged) > 0.01  # guided away from the backbone's rows
    assert distance(results[1], merged) <= LAW  # cfg 1: the conditional rows alone


def test_the_factors_are_counted_and_loaded_by_the_host():
    model = tiny.sdxl()
    ours = routed(model, loras(model_layers(model)))
    modules = ours.get_nested_additional_models()
    layers = model_layers(model)
    factors = sum(
        rank * (torch.Size(shape).numel() // shape[0] + shape[0])
        for shape in layers.values()
        for rank in (4, 3)
    )
    assert sum(one.model_size() for one in modules) == 4 * factors


def test_two_routers_in_a_row_add_up():
    model = tiny.sdxl()
    layers = model_layers(model)
    first, second = (
        loras(layers),
        (tiny.random_lora(layers, 2, 41), tiny.random_lora(layers, 5, 42)),
    )
    ours = routed(routed(model, first), second)
    expected = two_loaders(two_loaders(model, first), second)
    a, b = (
        oracle.sample(oracle.guider(m, POSITIVE, NEGATIVE), tiny.latent()) for m in (ours, expected)
    )
    assert distance(a, b) <= LAW


def test_no_role_depends_on_the_order_of_the_hosts_lists():
    """Swapping positive and negative swaps which rows get the LoRAs, and changes nothing else."""
    model = tiny.sdxl()
    ours = routed(model, loras(model_layers(model)))
    a = oracle.sample(acfg_guider(ours, POSITIVE, NEGATIVE, 0.0, True), tiny.latent())
    plain = oracle.sample(oracle.guider(model, NEGATIVE, POSITIVE, cfg=1.0), tiny.latent())
    assert distance(a, plain) <= LAW


def test_slices_of_a_fused_layer_write_only_their_rows():
    """q and v of a fused qkv, and a slice of a convolution's outputs."""
    model, twin = tiny.sdxl(), tiny.sdxl()
    layers = model_layers(model)
    slices = {
        "middle_block.1.transformer_blocks.0.attn1.to_q": [(0, 16), (48, 16)],
        "input_blocks.1.0.in_layers.2": [(5, 9)],
    }
    generator = torch.Generator().manual_seed(0)
    factors: dict[str, tuple[Factors, ...]] = {}
    for path, rows in slices.items():
        for start, length in rows:
            down = torch.randn(2, *layers[path][1:], generator=generator) * 0.2
            made = Factors(down, torch.randn(length, 2, generator=generator), 0.5, (start, length))
            factors[path] = (*factors.get(path, ()), made)
            weight = twin.model.diffusion_model.get_submodule(path).weight
            weight.data[start : start + length] += 0.7 * made.delta()
    bank = Bank.of([Branch("a", "content", factors, 0.7)], list(layers))
    ones = constant_gates(torch.full((len(bank.layers), 1), 0.7))
    a, b, plain = (
        oracle.sample(oracle.guider(m, POSITIVE, NEGATIVE), tiny.latent())
        for m in (attach(model, bank, ones), twin, tiny.sdxl())
    )
    assert distance(a, b) <= LAW
    assert distance(a, plain) > 1e-3


def soft(seed):
    """A conditioning at half its strength on the left, and none on the right."""
    mask = torch.zeros(1, 16, 16)
    mask[..., :8] = 0.5
    return tiny.conditioning(seed, mask=mask, mask_strength=1.0)


def with_rest(*seeds):
    """Soft masks, and a conditioning for what they leave of the picture."""
    masked = [entry for seed in seeds for entry in soft(seed)]
    return set_default_conds_and_combine([masked], [tiny.conditioning(9)])[0]


VIEWED = {
    "one": POSITIVE,
    "soft mask": [*soft(1), *tiny.conditioning(7)],
    "default under a soft mask": with_rest(1),
    "default under two": with_rest(1, 7),
}


@pytest.mark.parametrize("positive", VIEWED)
def test_views_are_averaged_each_with_its_own_gates(positive):
    """Two views, one LoRA each: the mean of two predictions, as LoRA Composite asks."""
    conds = VIEWED[positive], NEGATIVE
    model = tiny.sdxl()
    states = loras(model_layers(model))
    bank = bank_of(model, states, (1.0, 1.0))
    table = torch.eye(2)[:, None, :].expand(2, len(bank.layers), 2).contiguous()
    ours = attach(model, bank, Gates(at=lambda moment: table, views=2))
    single = [routed(model, states, strengths=pair) for pair in ((1.0, 0.0), (0.0, 1.0))]

    steps = 1  # one step: then the mean of two runs is the run of the mean
    runs = [
        oracle.sample(oracle.guider(m, *conds), tiny.latent(), steps=steps)
        for m in (ours, *single, *map(oracle.row_by_row, single))
    ]
    mean, again = (runs[1] + runs[2]) / 2, (runs[3] + runs[4]) / 2
    assert distance(runs[0], mean) <= oracle.law(mean, again)
    assert distance(runs[1], runs[2]) > 0.01


@pytest.mark.parametrize("rule", ["cfg", "acfg", "role"])
@pytest.mark.parametrize("positive", VIEWED)
def test_views_with_equal_gates_are_one_view(positive, rule):
    """Under guidance rules, with a default in the negative prompt too, before and behind a bank."""
    model = tiny.sdxl()
    states = loras(model_layers(model))
    table = torch.full((2, len(model_layers(model)), 2), 0.5)

    def sampled(views, first):
        gates = Gates(at=lambda moment: table[:views], views=views)
        made = attach(model, bank_of(model, states), gates) if first else routed(model, states)
        made = routed(made, states) if first else attach(made, bank_of(model, states), gates)
        made = set_guidance(made, rule, {"content_weight": 2.0} if rule == "role" else {})
        guider = oracle.guider(made, VIEWED[positive], with_rest(2))
        return oracle.sample(guider, tiny.latent(2), steps=2)

    for first in (True, False):
        assert distance(sampled(2, first), sampled(1, first)) <= LAW


@pytest.mark.parametrize("tiles", [2, 3])
def test_a_wrapper_that_batches_tiles_keeps_every_row_in_its_role(tiles):
    """Tiled samplers repeat the whole batch once a tile and leave the roles' list as it is."""

    def tiled(apply_model, arguments):
        x, t, c = arguments["input"], arguments["timestep"], dict(arguments["c"])
        repeated = {k: torch.cat([v] * tiles) if torch.is_tensor(v) else v for k, v in c.items()}
        out = apply_model(torch.cat([x] * tiles), torch.cat([t] * tiles), **repeated)
        return out.chunk(tiles)[-1]

    ours, reference = asymmetric_pair("sdxl", Schedule("cosine"), cosine)
    ours.model_patcher.set_model_unet_function_wrapper(tiled)
    ours.model_options = ours.model_patcher.model_options
    a, b = (oracle.sample(g, tiny.latent(2)) for g in (ours, reference))
    assert distance(a, b) <= LAW


def test_a_batch_nobody_can_read_is_an_error_and_not_a_guess():
    def odd(apply_model, arguments):
        x, t, c = arguments["input"], arguments["timestep"], arguments["c"]
        grown = {k: torch.cat([v, v[:1]]) if torch.is_tensor(v) else v for k, v in c.items()}
        return apply_model(torch.cat([x, x[:1]]), torch.cat([t, t[:1]]), **grown)[:-1]

    ours, _ = asymmetric_pair("sdxl", None, cosine)
    ours.model_patcher.set_model_unet_function_wrapper(odd)
    ours.model_options = ours.model_patcher.model_options
    with pytest.raises(CraftError, match="which rows are whose"):
        oracle.sample(ours, tiny.latent(2))


def test_the_models_own_clock_follows_a_sampling_patch_made_after_the_router():
    model = tiny.sdxl()
    states = loras(model_layers(model))
    bank = bank_of(model, states)
    seen = []
    gates = Gates(at=lambda m: seen.append(m.model_progress) or torch.zeros(1, len(bank.layers), 2))
    patch = ModelSamplingContinuousEDM().patch
    for ours in (
        patch(attach(model, bank, gates), "v_prediction", 80.0, 0.002)[0],
        attach(patch(model, "v_prediction", 80.0, 0.002)[0], bank, gates),
    ):
        oracle.sample(oracle.guider(ours, POSITIVE, NEGATIVE), tiny.latent())
    half = len(seen) // 2
    assert seen[:half] == seen[half:] and seen[0] == 0.0
