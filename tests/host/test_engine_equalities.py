"""What the engine computes equals models patched by other means, through the real samplers."""

from __future__ import annotations

import comfy.samplers
import comfy.sd
import comfy.utils
import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import host_names, model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import parse_lora
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import Bank, Branch, constant_gates
from oracle import LAW, distance

STRENGTHS = (0.7, 0.4)
FAMILIES = {"sd15": tiny.sd15, "sdxl": tiny.sdxl}
POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(2)


def loras(layers):
    return (tiny.random_lora(layers, 4, seed=11), tiny.random_lora(layers, 3, seed=12))


def bank_of(model, states, strengths=STRENGTHS) -> Bank:
    layers = model_layers(model)
    roles = ("content", "style")
    branches = [
        Branch(role, role, parse_lora(state, {}, layers, host_names(model)).layers, strength)
        for role, state, strength in zip(roles, states, strengths, strict=True)
    ]
    return Bank.of(branches, list(layers))


def routed(model, states, schedule=None, strengths=STRENGTHS):
    bank = bank_of(model, states, strengths)
    ones = constant_gates(torch.ones(len(bank.layers), len(bank.branches)))
    return engine.attach(model, bank, compose(ones, bank, schedule))


def two_loaders(model, states, strengths=STRENGTHS):
    """What the host's two LoraLoader nodes make of the same files."""
    for state, strength in zip(states, strengths, strict=True):
        model, _ = comfy.sd.load_lora_for_models(model, None, state, strength, 0.0)
    return model


LATENTS = {
    "txt2img": (lambda: tiny.latent(), 1.0),
    "img2img": (lambda: tiny.latent(seed=5), 0.6),
    "inpaint": (lambda: tiny.latent(seed=5) | {"noise_mask": mask()}, 0.8),
}


def mask():
    noise_mask = torch.zeros(1, 1, 16, 16)
    noise_mask[..., 4:12, 2:9] = 1.0
    return noise_mask


@pytest.mark.parametrize("task", LATENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_symmetric_and_constant_is_the_hosts_two_lora_loaders(family, task):
    model = FAMILIES[family]()
    states = loras(model_layers(model))
    make, denoise = LATENTS[task]
    ours = routed(model, states)
    theirs = two_loaders(model, states)
    results = [
        oracle.sample(oracle.guider(m, POSITIVE, NEGATIVE), make(), denoise=denoise)
        for m in (model, theirs, ours)
    ]
    assert distance(results[0], results[1]) > 0.05, "the LoRAs must matter for this to say much"
    assert distance(results[1], results[2]) <= LAW


def renamed(state, names, pattern, ends):
    out = {}
    for stem, diffusers in names.items():
        block, _, leaf = diffusers.replace(".to_out.0", ".to_out").rpartition(".")
        for old, end in zip(("lora_down", "lora_up"), ends, strict=True):
            value = state[f"{stem}.{old}.weight"]
            if old == "lora_up":  # these namings have no alpha
                value = value * float(state[f"{stem}.alpha"]) / value.shape[1]
            name = f"{block}{pattern.format(leaf)}".lstrip(".")  # conv_in lies in no block
            out[f"unet.{name}.{end}"] = value
    return out


def diffusers_names(model, attention_only: bool):
    """{kohya stem: diffusers path} of the model's layers, by the host's own conversion."""
    layers, names = model_layers(model), {}
    for diffusers, ldm in comfy.utils.unet_to_diffusers(
        model.model.model_config.unet_config
    ).items():
        path = ldm.removesuffix(".weight")
        if path in layers and (".attn" in diffusers and ".to_" in diffusers or not attention_only):
            names["lora_unet_" + path.replace(".", "_")] = diffusers.removesuffix(".weight")
    return names


NAMINGS = {
    "old diffusers": (".processor.{}_lora", ("down.weight", "up.weight")),
    "peft": (".{}", ("lora_A.weight", "lora_B.weight")),
}


@pytest.mark.parametrize("task", LATENTS)
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_files_act_as_the_hosts_loaders_do_under_kohya_names(family, naming, task):
    """PEFT files on every layer; old diffusers files, which know only attention, there."""
    model = FAMILIES[family]()
    names = diffusers_names(model, attention_only=naming == "old diffusers")
    kohya = tuple(
        {k: v for k, v in state.items() if k.rsplit(".lora", 1)[0].rsplit(".alpha", 1)[0] in names}
        for state in loras(model_layers(model))
    )
    pattern, ends = NAMINGS[naming]
    ours = routed(model, tuple(renamed(state, names, pattern, ends) for state in kohya))
    theirs = two_loaders(model, kohya)
    make, denoise = LATENTS[task]
    a, b = (
        oracle.sample(oracle.guider(m, POSITIVE, NEGATIVE), make(), denoise=denoise)
        for m in (ours, theirs)
    )
    assert len(names) > 30
    assert distance(a, b) <= LAW


def asymmetric_pair(family, schedule, strengths_at, cfg=4.0):
    """(our ACFG guider, the two-model reference) on the same weights and files."""
    model, other, twin = (FAMILIES[family]() for _ in range(3))
    layers = model_layers(model)
    states = loras(layers)
    ours = acfg_guider(routed(model, states, schedule), POSITIVE, NEGATIVE, cfg, True)
    deltas = [oracle.dense_deltas(state, layers) for state in states]
    reference = oracle.TwoModels(other, twin, deltas, strengths_at)
    reference.set_conds(POSITIVE, NEGATIVE)
    reference.set_cfg(cfg)
    return ours, reference


def constant(progress):
    return STRENGTHS


def cosine(progress):
    f = (1 - torch.cos(torch.tensor(torch.pi * (1 - progress), dtype=torch.float64)).item()) / 2
    return STRENGTHS[0] * f, STRENGTHS[1] * (1 - f)


@pytest.mark.parametrize("family", FAMILIES)
def test_asymmetric_is_two_separately_patched_models(family):
    ours, reference = asymmetric_pair(family, None, constant)
    a, b = (oracle.sample(guider, tiny.latent()) for guider in (ours, reference))
    assert distance(a, b) <= LAW


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_sees_the_schedule_at_its_own_evaluations(sampler):
    ours, reference = asymmetric_pair("sdxl", Schedule("cosine"), cosine)
    a, b = (oracle.sample(g, tiny.latent(), sampler=sampler) for g in (ours, reference))
    assert torch.isfinite(a).all()
    assert distance(a, b) <= LAW


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_every_scheduler_gives_the_same_positions(scheduler):
    ours, reference = asymmetric_pair("sd15", Schedule("cosine"), cosine)
    a, b = (oracle.sample(g, tiny.latent(), scheduler=scheduler) for g in (ours, reference))
    assert distance(a, b) <= LAW


@pytest.mark.parametrize(("steps", "batch", "denoise"), [(1, 1, 1.0), (9, 3, 1.0), (5, 2, 0.4)])
def test_step_count_batch_and_denoise_do_not_matter(steps, batch, denoise):
    ours, reference = asymmetric_pair("sdxl", Schedule("cosine"), cosine)
    a, b = (
        oracle.sample(g, tiny.latent(batch, seed=5), steps=steps, denoise=denoise)
        for g in (ours, reference)
    )
    assert distance(a, b) <= LAW


def test_images_in_a_batch_do_not_touch_each_other():
    model = tiny.sdxl()
    ours = acfg_guider(
        routed(model, loras(model_layers(model)), Schedule("cosine")), POSITIVE, NEGATIVE, 4, True
    )
    both = tiny.latent(2, seed=5)
    swapped = {"samples": both["samples"].flip(0)}
    first = oracle.sample(ours, both, denoise=0.5)
    again = oracle.sample(ours, {"samples": both["samples"][:1]}, denoise=0.5)
    assert distance(first[:1], again) <= LAW
    assert torch.isfinite(oracle.sample(ours, swapped, denoise=0.5)).all()
