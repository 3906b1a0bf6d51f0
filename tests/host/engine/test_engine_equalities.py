"""What the engine computes equals models patched by other means, through the real samplers."""

from __future__ import annotations

import comfy.samplers
import comfy.sd
import comfy.utils
import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from oracle import LAW, distance
from two_loras import (
    FAMILIES,
    NEGATIVE,
    POSITIVE,
    STRENGTHS,
    asymmetric_pair,
    cosine,
    loras,
    routed,
    two_loaders,
)

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
    expected = two_loaders(model, states)
    results = [
        oracle.sample(oracle.guider(m, POSITIVE, NEGATIVE), make(), denoise=denoise)
        for m in (model, expected, ours)
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
    expected = two_loaders(model, kohya)
    make, denoise = LATENTS[task]
    a, b = (
        oracle.sample(oracle.guider(m, POSITIVE, NEGATIVE), make(), denoise=denoise)
        for m in (ours, expected)
    )
    assert len(names) > 30
    assert distance(a, b) <= LAW


def constant(progress):
    return STRENGTHS


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
