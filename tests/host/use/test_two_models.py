"""One Router over two models that sample one after the other: Wan 2.2's experts, a refiner, and a
second pass of the same model."""

from __future__ import annotations

import functools

import comfy.lora
import comfy.samplers
import comfy.utils
import folder_paths
import nodes
import pair_parts
import pytest
import safetensors.torch
import tiny
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from craft_lora_pack.comfy_adapter.draw.run_map import viewer_of
from craft_lora_pack.comfy_adapter.engine.engine import set_asymmetric
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_sample
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.nodes.lora_branch import LoadLoRABranch
from craft_lora_pack.nodes.router import Router
from craft_lora_pack.nodes.schedule import TimestepSchedule
from oracle import LAW, distance
from tiny_families import TINY

WAN, STEPS, CUT = "WAN21_T2V", 4, 2
PROMPT = "<c>a cat</c> in <s>ink</s>"
FILES = {
    f"{role}_{noise}": f"{role}_{noise}.safetensors"
    for role in ("content", "style")
    for noise in ("high", "low")
}
HIGH = {"content_lora": FILES["content_high"], "style_lora": FILES["style_high"]}
LOW = {"content_lora": FILES["content_low"], "style_lora": FILES["style_low"]}
SECOND_LOW = {f"second_{name}": file for name, file in LOW.items()}
SETTINGS = {
    "prompt": PROMPT, "content_strength": 0.8, "style_strength": 0.6,
    "layer_sets": {"layer_sets": "all"}, "method": {"method": "craft"},
}  # fmt: skip
METHODS = [key for key in FUSION.keys() if key != "b_lora"]  # whose blocks are SDXL's


def cosine(clock):
    return TimestepSchedule.execute({"shape": "cosine"}, 0.1, 0.0, clock).result[0]


@functools.cache
def clip():
    return pair_parts.tiny_clip()


@functools.cache
def expert(noise):
    """A Wan expert; the two have other weights."""
    model = TINY[WAN].make(WAN)
    if noise == "low":
        for weight in model.model.diffusion_model.parameters():
            weight.data.mul_(0.9)
    return model


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A LoRA folder of the host with a file for each role and expert."""
    folder = tmp_path_factory.mktemp("loras")
    layers = model_layers(expert("high"))
    for seed, file in enumerate(FILES.values()):
        safetensors.torch.save_file(tiny.random_lora(layers, 2, seed=seed), folder / file)
    folder_paths.add_model_folder_path("loras", str(folder))
    yield folder
    folder_paths.folder_names_and_paths["loras"][0].remove(str(folder))
    folder_paths.filename_list_cache.clear()


def route(model, **changes):
    """(model, report, second model, all outputs)"""
    made = Router.execute(model, clip(), **{**SETTINGS, **HIGH, **changes}).result
    return made[0], made[3], made[-1], made


def both(**changes):
    first, report, second, _ = route(expert("high"), second_model=expert("low"), **changes)
    return first, second, report


def stage(model, latent, start=0, end=STEPS, kind=WAN, cfg=4.0):
    """The steps from start to end of KSampler (Advanced)."""
    made, name = TINY[kind], {True: "enable", False: "disable"}
    with torch.inference_mode():
        return nodes.KSamplerAdvanced().sample(
            model, name[start == 0], 3, STEPS, cfg, "euler", "simple", made.conditioning(1),
            made.conditioning(2), latent, start, end, name[end < STEPS],
        )[0]  # fmt: skip


def sampled(first, second, kind=WAN):
    """The first model to the cut, the second from there."""
    return stage(second, stage(first, TINY[kind].latent(), 0, CUT, kind), CUT, STEPS, kind)[
        "samples"
    ]


def alone(model, kind=WAN):
    return stage(model, TINY[kind].latent(), kind=kind)["samples"]


# What the second model becomes


@pytest.mark.parametrize("method", METHODS)
def test_each_expert_is_what_a_router_of_its_own_gives(method):
    given = {"method": {"method": method}, "schedule": cosine("model")}
    first, second, _ = both(**SECOND_LOW, **given)
    high, *_ = route(expert("high"), **given)
    low, *_ = route(expert("low"), **LOW, **given)
    assert torch.equal(alone(first), alone(high))
    assert torch.equal(alone(second), alone(low))
    assert distance(alone(low), alone(expert("low"))) > 0.003
    assert distance(alone(low), alone(route(expert("low"), **given)[0])) > 0.003


def test_the_experts_with_their_files_are_the_hosts_lora_loaders():
    first, second, _ = both(**SECOND_LOW, method={"method": "direct"})
    loaded = []
    for noise, files in (("high", HIGH), ("low", LOW)):
        model = expert(noise)
        for name, strength in zip(files.values(), (0.8, 0.6), strict=True):
            model = nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0]
        loaded.append(model)
    assert distance(sampled(first, second), sampled(*loaded)) <= LAW
    assert distance(sampled(first, second), sampled(loaded[0], loaded[0])) > 0.003


def test_asymmetric_guidance_is_that_of_separate_routers_in_each_stage():
    first, second, _ = both(**SECOND_LOW)
    for model, noise, files in ((first, "high", HIGH), (second, "low", LOW)):
        expected, *_ = route(expert(noise), **files)
        pictures = []
        for one in (model, expected):
            with torch.inference_mode():
                made = acfg_sample(
                    one, True, 5, STEPS, 4.0, "euler", "simple", TINY[WAN].conditioning(1),
                    TINY[WAN].conditioning(2), TINY[WAN].latent(), 1.0,
                )  # fmt: skip
            pictures.append(made.latent["samples"])
        assert torch.equal(*pictures)
        assert not torch.equal(pictures[0], alone(model))


def test_without_files_of_its_own_the_second_model_gets_those_of_the_first():
    _, second, _ = both()
    expected, *_ = route(expert("low"))
    assert torch.equal(alone(second), alone(expected))


def test_a_role_may_have_a_file_on_one_model_alone():
    only = {"content_lora": "none", "second_style_lora": "none"}
    first, second, report = both(**only, second_content_lora=FILES["content_low"])
    assert torch.equal(alone(first), alone(route(expert("high"), content_lora="none")[0]))
    low = {"content_lora": FILES["content_low"], "style_lora": "none"}
    assert torch.equal(alone(second), alone(route(expert("low"), **low)[0]))
    before, after = report.split("Second model:")
    assert FILES["style_high"] in before and FILES["content_low"] in after
    assert FILES["style_high"] not in after and FILES["content_low"] not in before


@pytest.mark.parametrize("method", METHODS)
def test_a_second_model_without_loras_is_itself_bit_for_bit(method):
    none = {"second_content_lora": "none", "second_style_lora": "none"}
    _, second, report = both(**none, method={"method": method})
    assert torch.equal(alone(second), alone(expert("low")))
    assert "No LoRA chosen" in report.split("Second model:")[1]


def test_further_branches_come_in_pairs_too():
    def chain(noise, second="same"):
        (one,) = LoadLoRABranch.execute(
            FILES[f"style_{noise}"], "style", 0.5, second_lora=second
        ).result
        return one

    given = {"style_lora": "none"}
    _, second, _ = both(
        **given, second_content_lora=LOW["content_lora"],
        extra_branches=chain("high", FILES["style_low"]),
    )  # fmt: skip
    low = LOW | given
    expected, *_ = route(expert("low"), **low, extra_branches=chain("low"))
    assert torch.equal(alone(second), alone(expected))
    _, second, _ = both(
        **given, second_content_lora=LOW["content_lora"], extra_branches=chain("high", "none")
    )
    assert torch.equal(alone(second), alone(route(expert("low"), **low)[0]))


def test_the_lora_stack_is_for_both_models():
    stack = [(FILES["style_low"], 0.5, 0.0)]
    _, second, _ = both(**SECOND_LOW, lora_stack=stack)
    expected, *_ = route(expert("low"), **LOW, lora_stack=stack)
    assert torch.equal(alone(second), alone(expected))
    assert not torch.equal(alone(second), alone(route(expert("low"), **LOW)[0]))


# Time


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("clock", ["steps", "model"])
def test_a_schedule_goes_on_in_the_second_model(clock, asymmetric):
    """Whatever its clock: two samplers make the picture of one."""
    model = expert("high")
    made = route(model, second_model=model, schedule=cosine(clock))
    first, second = (set_asymmetric(one, asymmetric) for one in (made[0], made[2]))
    one, anew = (
        set_asymmetric(route(model, schedule=cosine(own))[0], asymmetric)
        for own in ("model", "steps")
    )
    uninterrupted = alone(one)
    assert torch.equal(alone(first), uninterrupted)
    assert distance(sampled(first, second), uninterrupted) <= LAW
    assert distance(sampled(anew, anew), uninterrupted) > 10 * LAW


def test_with_the_sigmas_of_the_whole_the_steps_are_those_of_both_samplers():
    model, method = expert("high"), {"method": "switch", "every": 1}
    sigmas = whole_sigmas(model)
    given = {"schedule": cosine("steps"), "method": method, "whole_sigmas": sigmas}
    first, report, second, _ = route(model, second_model=model, **given)
    uninterrupted = alone(route(model, schedule=cosine("steps"), method=method)[0])
    assert distance(sampled(first, second), uninterrupted) <= LAW
    assert report.count(f"the {STEPS} steps of whole_sigmas") == 2


def whole_sigmas(model):
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)


def test_the_report_says_what_time_runs_over():
    *_, report = both(schedule=cosine("steps"))
    before, after = report.split("Second model:")
    assert "the schedule: the model's noise range" in before
    assert "whatever its clock" in after and "whole_sigmas" in after


# SDXL and its refiner


def test_a_refiner_without_loras_follows_a_routed_base():
    base, refiner = (TINY[kind].make(kind) for kind in ("SDXL", "SDXLRefiner"))
    states = [tiny.random_lora(model_layers(base), 2, seed=seed) for seed in (1, 2)]
    names = ("sdxl_content.safetensors", "sdxl_style.safetensors")
    loras = dict(zip(("content_lora", "style_lora"), names, strict=True))
    for name, state in zip(names, states, strict=True):
        safetensors.torch.save_file(state, folder_paths.get_folder_paths("loras")[-1] + "/" + name)
    none = {"second_content_lora": "none", "second_style_lora": "none"}
    first, _, second, _ = route(base, second_model=refiner, **loras, **none)
    assert torch.equal(alone(first, "SDXL"), alone(route(base, **loras)[0], "SDXL"))
    assert torch.equal(alone(second, "SDXLRefiner"), alone(refiner, "SDXLRefiner"))


def test_files_that_do_not_fit_the_second_model_are_refused_in_its_name():
    other = TINY["SDXL"].make("SDXL")
    with pytest.raises(CraftError, match="^second_model: ") as refused:
        route(expert("high"), second_model=other)
    said = str(refused.value)
    assert FILES["content_high"] in said and "second_content_lora" in said and "none" in said


def test_misfits_of_the_second_files_are_told_as_the_firsts_are(folder):
    state = tiny.random_lora(model_layers(expert("low")), 2, seed=9)
    state |= {f"lora_unet_blocks_99_ffn_0.lora_{end}.weight": torch.zeros(2, 2)
              for end in ("down", "up")}  # fmt: skip
    safetensors.torch.save_file(state, folder / "odd.safetensors")
    with pytest.raises(CraftError, match="^second_model: .*odd.safetensors.*blocks_99"):
        both(second_style_lora="odd.safetensors")
    *_, report = both(second_style_lora="odd.safetensors", allow_unmatched=True)
    before, after = report.split("Second model:")
    assert "blocks_99" in after and "blocks_99" not in before


def test_a_text_encoder_part_of_the_second_files_is_said_not_to_act(folder):
    names = comfy.lora.model_lora_keys_clip(clip().cond_stage_model, {})
    stem = next(n for n in names if n.startswith("lora_te") and n.endswith("q_proj"))
    shape = comfy.utils.get_attr(clip().cond_stage_model, names[stem]).shape
    state = tiny.random_lora(model_layers(expert("low")), 2, seed=9)
    generator = torch.Generator().manual_seed(0)
    state[f"{stem}.lora_down.weight"] = torch.randn(2, shape[1], generator=generator)
    state[f"{stem}.lora_up.weight"] = torch.randn(shape[0], 2, generator=generator)
    safetensors.torch.save_file(state, folder / "text.safetensors")
    said = "text.safetensors: its text-encoder part does not act"
    low = {"second_content_lora": "text.safetensors"}
    plain, report, _, made = route(expert("high"), second_model=expert("low"), **low)
    assert said in report.split("Second model:")[1]
    assert torch.equal(made[1][0][0], route(expert("high"))[3][1][0][0])
    *_, report = both(content_lora="text.safetensors")
    assert said not in report


# Without a second model


def test_without_a_second_model_its_output_stops_whatever_uses_it():
    *_, second, made = route(expert("high"))
    assert len(made) == 6
    assert isinstance(second, ExecutionBlocker) and "second_model" in second.message


def test_files_for_a_second_model_that_is_not_there_are_warned_of(caplog):
    route(expert("high"), **SECOND_LOW)
    assert "do not count without a second_model" in caplog.text


def test_one_router_shows_the_maps_of_both_models():
    first, second, _ = both()
    assert viewer_of(first) is viewer_of(second) is not None
    again, _, other, _ = route(first, second_model=second)
    assert viewer_of(again) is viewer_of(other)
    assert viewer_of(again).before == [viewer_of(first)]
