"""A layer of a file that cannot act: refused with what and why, or left out where allowed."""

from __future__ import annotations

import json
import re

import pytest
import torch
from raw_lora import noise, pair

from craft_core.errors import CraftError
from craft_core.fusion import FUSION
from craft_core.lora import parse_lora
from craft_core.lora.text_encoder import merge_text_encoders
from craft_core.lora.without_model import read_together
from craft_core.routing.plan import CandidateLora, PlanRequest, plan
from craft_core.types import Branch, LayerTarget, LoraFile

LAYERS = {"a": (6, 5), "b": (6, 5), "b.norm": (6,)}
NAMES = {"b": LayerTarget("b"), "b.to_out.0": LayerTarget("b"), "b.to_out": LayerTarget("b")}
GOOD = pair("lora_unet_a", (6, 5))
STALE = {"lora_adapter_metadata": json.dumps({"r": 64, "lora_alpha": 32})}

CASES = {
    "another shape": (pair("b", (6, 7), ending="PEFT"), "does not fit b of this model"),
    "rank 0": ({"b.lora_A.weight": noise(0, 5), "b.lora_B.weight": noise(6, 0)}, "does not fit b"),
    "half": ({"b.lora_A.weight": noise(2, 5)}, "holds just b.lora_A.weight"),
    "an integer type": (
        {key: tensor.to(torch.int8) for key, tensor in pair("b", (6, 5), ending="PEFT").items()},
        "holds int8 numbers",
    ),
    "unknown ending": ({"b.lora_A.weight_scale": noise(1)}, "unknown kind: b.lora_A.weight_s"),
    "a replaced weight": ({"b.set_weight": noise(6, 5)}, "replaced weight.*b.set_weight"),
    "a widened weight": ({"b.reshape_weight": noise(2)}, "widened weight.*b.reshape_weight"),
    "a kind not carried": (
        {f"lora_unet_{i}.lora_E": noise(2) for i in range(4)}, "AdaLoRA.*and 2 more",
    ),
    "two kinds": (
        pair("b", (6, 5), ending="PEFT") | {"b.hada_w1_a": noise(6, 2)}, "holds just b.lora_A",
    ),
    "a plain LoRA of a norm": (pair("lora_unet_b_norm", (6, 1)), "does not fit b.norm"),
    "a norm of another size": ({"lora_unet_b_norm.w_norm": noise(7)}, "does not fit b.norm"),
    "a bias of another size": ({"b.diff_b": noise(5)}, "does not fit b of this model"),
}  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES)


def read(case, **options):
    state, told = CASES[case]
    return parse_lora(GOOD | state, {}, LAYERS, NAMES, **options), told


@every_case
def test_it_is_refused_with_what_and_why_and_the_way_out(case):
    state, told = CASES[case]
    with pytest.raises(CraftError, match=f"{told}.*allow_unmatched, --allow-unmatched"):
        parse_lora(GOOD | state, {}, LAYERS, NAMES)


@every_case
def test_allowed_the_rest_of_the_file_acts(case):
    file, told = read(case, allow=True)
    assert list(file.layers) == ["a"]
    (fault,) = file.faults
    assert re.search(told, fault)
    assert torch.equal(file.layers["a"][0].down, GOOD["lora_unet_a.lora_down.weight"])


@every_case
def test_allowed_it_is_in_the_plan_and_its_report(case):
    file, told = read(case, allow=True)
    branch = Branch("ink", "style", file.layers)
    given = [CandidateLora(branch, unmatched=file.unmatched, cannot_act=file.faults)]
    with pytest.raises(CraftError, match="ink: 1 that cannot act"):
        plan(given, PlanRequest(FUSION["direct"]), LAYERS)
    made = plan(given, PlanRequest(FUSION["direct"], allow_unmatched=True), LAYERS)
    (line,) = (line for line in made.report if "cannot act" in line)
    assert file.faults[0] in line


@every_case
def test_a_file_of_nothing_else_is_refused_all_the_same(case):
    state, told = CASES[case]
    with pytest.raises(CraftError, match=told):
        parse_lora(state, {}, LAYERS, NAMES, allow=True)


def test_of_two_names_for_one_layer_the_first_acts():
    one, other = (pair(f"b.to_out{end}", (6, 5), ending="PEFT", seed=s)
                  for s, end in enumerate(("", ".0")))  # fmt: skip
    with pytest.raises(CraftError, match="both there for one layer.*--allow-unmatched"):
        parse_lora(GOOD | one | other, {}, LAYERS, NAMES)
    file = parse_lora(GOOD | one | other, {}, LAYERS, NAMES, allow=True)
    assert len(file.faults) == 2
    assert torch.equal(file.layers["b"][0].down, one["b.to_out.lora_A.weight"])


def test_stale_metadata_leaves_out_the_layers_it_speaks_of():
    state = GOOD | pair("b", (6, 5), ending="PEFT")
    with pytest.raises(CraftError, match="the file's metadata says 64.*--allow-unmatched"):
        parse_lora(state, STALE, LAYERS, NAMES)
    file = parse_lora(state, STALE, LAYERS, NAMES, allow=True)
    assert list(file.layers) == ["a"] and "metadata says 64" in file.faults[0]


def test_damaged_numbers_stay_refused():
    state = GOOD | {"b.diff_b": torch.full((6,), float("nan"))}
    with pytest.raises(CraftError, match="b.diff_b holds NaN"):
        parse_lora(state, {}, LAYERS, NAMES, allow=True)


def test_files_without_a_model_are_read_without_what_cannot_act():
    broken = GOOD | {"lora_unet_b.set_weight": noise(6, 5), "lora_unet_b.diff_b": noise(6)}
    with pytest.raises(CraftError, match="one: .*replaced weight"):
        read_together([("one", broken, {}), ("two", GOOD, {})])
    found = read_together([("one", broken, {}), ("two", GOOD, {})], allow=True)
    assert set(found.files[0].layers) == {"a", "b"} and len(found.files[0].faults) == 1


def test_a_text_encoders_part_is_added_up_without_what_cannot_be():
    stem = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    state = pair(stem, (6, 5)) | {
        "lora_te1_a.set_weight": noise(6, 5),
        "lora_te1_b.lora_down.weight": noise(2, 5),
        "lora_te1_c.dora_scale": noise(6, 1),
        **pair("lora_te1_c", (6, 5)),
        **pair(f"text_encoder{stem.removeprefix('lora_te1')}", (6, 5), seed=5),
    }
    with pytest.raises(CraftError, match="set_weight"):
        merge_text_encoders([LoraFile({}, state)], [1.0], torch.float32)
    part = merge_text_encoders([LoraFile({}, state)], [1.0], torch.float32, allow=True)
    assert part.matrices == 1 and len(part.faults) == 4
    assert torch.equal(part.tensors[f"{stem}.lora_down.weight"], state[f"{stem}.lora_down.weight"])
