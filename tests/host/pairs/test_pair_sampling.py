"""Frequency-guided sampling and generation of pairs, against the host's own sampling."""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.pairs.pair_set import Band
from craft_lora_pack.comfy_adapter.pairs.references import References
from craft_lora_pack.comfy_adapter.pairs.sampling import (
    FrequencyGuider,
    Generation,
    generated_pairs,
)
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.frequency import DOMAINS, blend, inverse, masks, transform
from oracle import distance
from pair_parts import references, tiny_clip, tiny_vae

CONTENT, STYLE, NEGATIVE = (tiny.conditioning(seed) for seed in (1, 2, 3))
SAMPLERS = ("euler", "euler_ancestral", "dpmpp_2m", "heun", "euler_cfg_pp")
BAND = Band(0.3, "dct")


@pytest.fixture(scope="module")
def model():
    return tiny.sd15()


def guided(model, band=BAND, content=CONTENT, style=STYLE, cfg=4.0, **kept) -> FrequencyGuider:
    guider = FrequencyGuider(model, band)
    guider.set_conds(content, style, NEGATIVE)
    guider.set_cfg(cfg)
    guider.keep(**kept)
    return guider


def run(guider, sampler="euler", latent=None, **settings) -> torch.Tensor:
    return oracle.sample(guider, latent or tiny.latent(2, 8), sampler, steps=2, **settings)


def assert_plain_sampling(found, model, content, cfg=4.0, *settings, **more) -> None:
    """A run equals the host's plain one with this prompt, up to rounding."""

    def plain(model):
        return run(oracle.guider(model, content, NEGATIVE, cfg), *settings, **more)

    assert distance(found, plain(model)) <= oracle.rounding_of(model, plain)


# --- frequency-guided sampling


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_equal_prompts_give_the_hosts_plain_sampling(model, sampler, cfg):
    found = run(guided(model, style=CONTENT, cfg=cfg), sampler)
    assert_plain_sampling(found, model, CONTENT, cfg, sampler)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_the_end_stops_give_one_prompts_plain_sampling(model, sampler, cfg):
    for cutoff, prompt in ((1.0, CONTENT), (0.0, STYLE)):
        found = run(guided(model, Band(cutoff, "dct"), cfg=cfg), sampler)
        assert_plain_sampling(found, model, prompt, cfg, sampler)


@pytest.mark.parametrize("latent", ["image", "inpaint", "sdxl"])
def test_equal_prompts_give_the_hosts_plain_sampling_of(model, latent):
    model = tiny.sdxl() if latent == "sdxl" else model
    start = tiny.latent(2, 8, seed=5)
    if latent == "inpaint":
        start["noise_mask"] = torch.arange(64).reshape(1, 8, 8) % 3 / 2
    found = run(guided(model, style=CONTENT), latent=start, denoise=0.7)
    assert_plain_sampling(found, model, CONTENT, latent=start, denoise=0.7)


def literal_a1(band: Band, dtype=torch.float32):
    """App. A.1 literally, with Euler steps: the two noisy latents are blended each step."""

    def sample(model, x, sigmas, extra_args, callback, disable):
        guider = model.inner_model
        low, high = (
            mask.to(x.device, dtype)
            for mask in masks(tuple(x.shape[-2:]), band.cutoff, band.domain)
        )
        x = x.to(dtype)
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            sides = []
            for cutoff in (1.0, 0.0):  # the content prompt alone, the style prompt alone
                guider.band = Band(cutoff, band.domain)
                denoised = model(x.float(), sigma * x.new_ones(len(x)), **extra_args)
                stepped = x + (x - denoised) / sigma * (following - sigma)
                sides.append(transform(stepped, band.domain))
            x = inverse(low * sides[0] + high * sides[1], band.domain)
        return x.float()

    return comfy.samplers.KSAMPLER(sample)


@pytest.mark.parametrize("domain", DOMAINS)
def test_blending_predictions_is_the_papers_blending_of_latents(model, domain, monkeypatch):
    band = Band(0.3, domain)
    blended = run(guided(model, band))
    apart, single, double = oracle.row_by_row(model), torch.float32, torch.float64
    literal = []
    for each, dtype in ((model, single), (apart, single), (model, double)):
        sampler = literal_a1(band, dtype)
        monkeypatch.setattr(comfy.samplers, "sampler_object", lambda name, made=sampler: made)
        literal.append(run(guided(each, band)))
    monkeypatch.undo()
    assert distance(blended, literal[0]) <= oracle.rounding(*literal)
    assert distance(blended, run(guided(model, Band(1.0, domain)))) > 1e-2  # no trivial case


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("kept", ["low", "high"])
def test_a_kept_band_ends_as_the_references(model, sampler, kept, monkeypatch):
    predictions = []

    def spied(*args):
        predictions.append(sampling_function(*args))
        return predictions[-1]

    sampling_function = comfy.samplers.sampling_function
    monkeypatch.setattr(comfy.samplers, "sampling_function", spied)
    reference = tiny.latent(1, 8, seed=9)["samples"]
    found = run(guided(model, **{kept: reference}), sampler)
    prompted = model.model.process_latent_out(predictions[-1]).cpu()
    sides = (reference.expand_as(found), prompted)
    z_c, z_s = sides if kept == "low" else sides[::-1]
    blended = blend(z_c, z_s, BAND.cutoff, BAND.domain)
    exact = blend(z_c.double(), z_s.double(), BAND.cutoff, BAND.domain)
    assert distance(found, blended) <= oracle.rounding(blended, exact)
    mean = (-1, -2)
    if kept == "low":
        assert distance(found.mean(mean), reference.mean(mean).expand(2, 4)) <= 1e-4


def test_two_kept_bands_of_one_reference_are_the_reference(model):
    reference = tiny.latent(1, 8, seed=9)["samples"]
    found = run(guided(model, low=reference, high=reference))
    assert distance(found, reference.expand_as(found)) <= 1e-5


def calls(model, guider, monkeypatch) -> list[int]:
    """Batch size of every model call of a run on one latent."""
    sizes = []
    apply = model.model.apply_model

    def counted(x, *args, **kwargs):
        sizes.append(x.shape[0])
        return apply(x, *args, **kwargs)

    monkeypatch.setattr(model.model, "apply_model", counted)
    run(guider, latent=tiny.latent(1, 8))
    monkeypatch.undo()
    return sizes


def test_a_step_is_one_batched_call_and_an_unheard_prompt_costs_nothing(model, monkeypatch):
    reference = tiny.latent(1, 8, seed=9)["samples"]
    assert calls(model, guided(model), monkeypatch) == [3, 3]
    assert calls(model, guided(model, cfg=1.0), monkeypatch) == [2, 2]
    assert calls(model, guided(model, low=reference), monkeypatch) == [2, 2]
    assert calls(model, guided(model, Band(0.0, "dct")), monkeypatch) == [2, 2]


def test_each_prompt_gets_the_models_own_guidance_functions(model):
    """A cfg function and a post-cfg function act as they do under the host's guider."""
    model = model.clone()
    model.set_model_sampler_cfg_function(lambda a: a["uncond"] + 2 * (a["cond"] - a["uncond"]))
    model.set_model_sampler_post_cfg_function(lambda args: 0.9 * args["denoised"])
    assert_plain_sampling(run(guided(model, style=CONTENT)), model, CONTENT)
    plain = run(oracle.guider(model, CONTENT, NEGATIVE))
    unchanged = run(oracle.guider(tiny.sd15(), CONTENT, NEGATIVE))
    assert distance(plain, unchanged) > 1e-3


def test_a_models_own_batch_function_is_asked_for_each_prompt(model):
    asked = []

    def batch(args):
        asked.append(len(args["conds"]))
        return comfy.samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
        )

    own = model.clone()
    own.set_model_sampler_calc_cond_batch_function(batch)
    found, plain = run(guided(own)), run(guided(model))
    assert asked == [2, 2] * 2
    assert distance(found, plain) <= oracle.rounding_of(model, lambda model: run(guided(model)))


def test_regional_prompts_are_the_hosts(model):
    masked = tiny.conditioning(4, area=(4, 8, 0, 0), strength=0.7) + tiny.conditioning(5)
    assert_plain_sampling(run(guided(model, content=masked, style=masked)), model, masked)


def test_images_in_a_batch_do_not_touch_each_other(model):
    start = tiny.latent(2, 8, seed=5)
    before = {"samples": start["samples"].clone()}

    def first(model):
        return run(guided(model), latent=before, denoise=0.5)[0]

    alone = run(guided(model), latent=before, denoise=0.5)
    start["samples"][1] += 1.0
    found = run(guided(model), latent=start, denoise=0.5)
    assert distance(found[0], alone[0]) <= oracle.rounding_of(model, first)
    assert distance(found[1], alone[1]) > 1e-3


def test_a_latent_without_a_grid_is_refused(model):
    with pytest.raises(CraftError, match="height and a width"):
        guided(model).sample(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8), None, torch.ones(2))


# --- generation of pairs


CONTENTS, STYLES = references(2, "content"), references(3, "style")
TWO_STYLES = References(STYLES.images[:2], STYLES.captions[:2])


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


def generation(model, clip, vae, **changes) -> Generation:
    settings = {
        "model": model,
        "clip": clip,
        "vae": vae,
        "negative_prompt": "",
        "seed": 7,
        "steps": 2,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "keep_references": True,
    }
    return Generation(**(settings | changes))


def generated(g, content=CONTENTS, style=STYLES, band=BAND):
    with torch.inference_mode():
        return generated_pairs(content, style, band, "{content} in {style}", g)


@pytest.fixture(scope="module")
def kept_pairs(model, clip, vae):
    return generated(generation(model, clip, vae))


def test_generation_makes_every_pair_content_major(kept_pairs):
    assert len(kept_pairs) == 6
    expected = [f"content {i} in style {j}" for i in range(2) for j in range(3)]
    assert kept_pairs.content_captions == kept_pairs.style_captions == expected
    for picture in (*kept_pairs.content, *kept_pairs.style):
        assert picture.shape == (1, 64, 64, 3)
        assert picture.min() >= 0 and picture.max() <= 1
    assert [len(pictures) for pictures in kept_pairs.pictures()] == [2] * 6


def test_a_seeds_pictures_of_a_pair_do_not_depend_on_run_or_other_pairs(
    model, clip, vae, kept_pairs
):
    last = (
        References(CONTENTS.images[1:], CONTENTS.captions[1:]),
        References(STYLES.images[2:], STYLES.captions[2:]),
    )
    alone = generated(generation(model, clip, vae), *last)
    other = generated(generation(model, clip, vae, seed=8), *last)
    for side in ("content", "style"):
        picture = getattr(kept_pairs, side)[5]
        assert torch.equal(getattr(alone, side)[0], picture)
        assert not torch.equal(getattr(other, side)[0], picture)


def test_prompts_alone_give_one_picture_a_pair(model, clip, vae):
    pairs = generated(generation(model, clip, vae, keep_references=False), style=TWO_STYLES)
    assert [len(pictures) for pictures in pairs.pictures()] == [1] * 4
    assert all(x_c is x_s for x_c, x_s in zip(pairs.content, pairs.style, strict=True))
    assert not torch.equal(pairs.content[0], pairs.content[1])


@pytest.mark.parametrize("cutoff", [0.0, 1.0])
def test_at_the_end_stops_a_pair_is_the_hosts_ksampler(model, clip, vae, cutoff):
    """Through the nodes a user would take: CLIPTextEncode, VAEEncode, KSampler, VAEDecode."""
    import nodes

    g = generation(model, clip, vae, keep_references=False, denoise=0.6, seed=11)
    found = generated(g, CONTENTS, TWO_STYLES, Band(cutoff, "dct")).content[3]  # pair (1, 1)
    caption = CONTENTS.captions[1] if cutoff else STYLES.captions[1]
    with torch.inference_mode():
        positive = nodes.CLIPTextEncode().encode(clip, caption)[0]
        negative = nodes.CLIPTextEncode().encode(clip, "")[0]
        start = nodes.VAEEncode().encode(vae, CONTENTS.image(1))[0]
        settings = (g.seed, g.steps, g.cfg, g.sampler_name, g.scheduler)
        latent = nodes.KSampler().sample(model, *settings, positive, negative, start, g.denoise)[0]
        expected = nodes.VAEDecode().decode(vae, latent)[0]
    assert (found - expected).abs().max() <= 2e-5


def test_progress_runs_once_over_all_pictures(model, clip, vae, monkeypatch):
    updates = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda done, total, *rest, **more: updates.append((done, total)),
    )
    generated(generation(model, clip, vae), style=TWO_STYLES)
    done = [done for done, _ in updates]  # the host leaves out updates that follow too quickly
    assert (done[0], done[-1]) == (1, 16) and len(done) > 2
    assert all(before < after for before, after in zip(done, done[1:], strict=False))
    assert {total for _, total in updates} == {16}


def test_an_interrupt_ends_it_and_leaves_the_model_as_it_was(model, clip, vae, monkeypatch):
    plain = run(oracle.guider(model, CONTENT, NEGATIVE))
    seen = []

    def interrupting(done, *rest, **more):
        seen.append(done)
        if done >= 5:
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", interrupting)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        generated(generation(model, clip, vae))
    monkeypatch.undo()
    assert sum(done >= 5 for done in seen) == 1
    assert torch.equal(run(oracle.guider(model, CONTENT, NEGATIVE)), plain)


def test_a_missing_socket_is_named_before_any_work(model, clip, vae):
    for name in ("model", "clip", "vae"):
        with pytest.raises(CraftError, match=f"no {name}"):
            generated(generation(**({"model": model, "clip": clip, "vae": vae} | {name: None})))


def test_a_vae_of_another_model_is_refused(model, clip):
    wrong = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    with pytest.raises(CraftError, match="3 channels.*works on 4"):
        generated(generation(model, clip, wrong))


def test_generation_without_prompts_is_refused(model, clip, vae):
    silent = References(STYLES.images, ("",) * 3)
    with pytest.raises(CraftError, match="no style captions"):
        generated(generation(model, clip, vae), CONTENTS, silent)
