"""A text-encoder part that does not fit is refused with what and why, or left out where allowed;
never dropped with a line in the host's log alone."""

from __future__ import annotations

import logging

import comfy.lora
import comfy.utils
import folder_paths
import oracle
import pair_parts
import pytest
import safetensors.torch
import small_world_models as small
import torch
from craft_lora_pack.comfy_adapter.model.lora_files import (
    patch_text_encoder,
    read_lora_files,
    text_fit,
)
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.types import LoraFile
from craft_lora_pack.nodes.router import Router

PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
STEM = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
NAME = "odd_text.safetensors"


@pytest.fixture(scope="module")
def world():
    return small.load()


@pytest.fixture
def folder(tmp_path):
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


def shape(world):
    names = comfy.lora.model_lora_keys_clip(world.clip.cond_stage_model, {})
    return tuple(world.clip.cond_stage_model.state_dict()[names[STEM]].shape)


def pair(out, inputs, stem=STEM, rank=2):
    return {f"{stem}.lora_down.weight": torch.ones(rank, inputs),
            f"{stem}.lora_up.weight": torch.ones(out, rank)}  # fmt: skip


def ia3(channels, on_input):
    return {f"{STEM}.weight": torch.linspace(-1, 1, channels),
            f"{STEM}.on_input": torch.tensor(int(on_input))}  # fmt: skip


def cases(out, inputs):
    good = pair(out, inputs)
    return {
        "inputs": (pair(out, inputs + 1), "does not fit"),
        "outputs": (pair(out + 1, inputs), "does not fit"),
        "turned round": (pair(inputs, out), "does not fit"),
        "ranks": ({**good, f"{STEM}.lora_up.weight": torch.ones(out, 3)}, "do not share a rank"),
        "half": ({f"{STEM}.lora_down.weight": torch.ones(2, inputs)}, "holds just"),
        "two alphas": ({**good, f"{STEM}.alpha": torch.ones(2)}, "An alpha|has shape"),
        "a difference": ({f"{STEM}.diff": torch.ones(out, inputs + 1)}, "does not fit"),
        "a bias": ({f"{STEM}.diff_b": torch.ones(out + 1)}, "does not fit"),
        "IA3": (ia3(out, on_input=True), "does not fit"),
        "IA3 of PEFT": ({**good, f"{STEM}.ia3_l": torch.ones(inputs)}, "IA3 of PEFT"),
        "bias of down": ({**good, f"{STEM}.lora_down.bias": torch.ones(2)}, "bias of a down"),
        "whole numbers": ({k: t.to(torch.int8) for k, t in good.items()}, "int8"),
    }  # fmt: skip


CASES = tuple(cases(1, 2))


def write(folder, text):
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    safetensors.torch.save_file(lora | text, folder / NAME)


def route(world, **changes):
    given = {"content_strength": 1.0, "style_strength": 1.0, "layer_sets": {"layer_sets": "all"},
             "method": {"method": "craft"}} | changes  # fmt: skip
    with torch.inference_mode():
        return Router.execute(world.model, world.clip, PROMPT, NAME, "none", **given).result


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_the_text_encoder_is_refused_and_left_out_where_allowed(
    world, folder, case, caplog
):
    text, why = cases(*shape(world))[case]
    write(folder, text)
    with pytest.raises(CraftError, match=why) as refused:
        route(world)
    assert NAME in str(refused.value) and "allow_unmatched" in str(refused.value)
    with caplog.at_level(logging.WARNING):
        _, conditioning, _, report, *_ = route(world, allow_unmatched=True)
    assert [line for line in report.splitlines() if "Matches nothing" in line and STEM in line]
    assert [one.name for one in caplog.records] == ["craft"]  # no line of the host's
    assert torch.isfinite(conditioning[0][0]).all()


def test_a_text_encoder_part_that_is_left_out_changes_nothing(world, folder):
    out, inputs = shape(world)
    write(folder, {})
    plain = route(world)[1][0][0]
    write(folder, pair(out, inputs))
    assert not torch.equal(route(world)[1][0][0], plain)
    write(folder, pair(out, inputs + 1))
    assert torch.equal(route(world, allow_unmatched=True)[1][0][0], plain)


def encoded(clip):
    return clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))[0][0]


@pytest.mark.parametrize("on_input", [False, True])
def test_an_ia3_of_the_text_encoder_acts_though_the_host_has_none(on_input):
    """As the change of the weight that it stands for, which the host is given."""
    clip = pair_parts.tiny_clip()
    key = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})[STEM]
    weight = clip.cond_stage_model.state_dict()[key].clone()
    factors = ia3(weight.shape[on_input], on_input)
    along = factors[f"{STEM}.weight"].reshape((1, -1) if on_input else (-1, 1))
    ours, theirs = (
        encoded(patch_text_encoder(clip, LoraFile({}, text), 0.7))
        for text in (factors, {f"{STEM}.diff": along * weight})
    )
    assert oracle.distance(theirs, encoded(clip)) > 1e-3
    assert oracle.distance(ours, theirs) <= oracle.LAW


def test_what_fits_acts_beside_what_does_not(world, folder):
    out, inputs = shape(world)
    other = STEM.replace("fc1", "fc2")
    write(folder, pair(inputs, out, other))
    alone = route(world)[1][0][0]
    write(folder, pair(inputs, out, other) | pair(out, inputs + 1))
    assert torch.equal(route(world, allow_unmatched=True)[1][0][0], alone)
    path = str(folder / NAME)
    fit = text_fit(world.clip, read_lora_files([path], world.model, allow=True)[0])
    assert set(fit.state) == set(pair(inputs, out, other)) and len(fit.faults) == 1
