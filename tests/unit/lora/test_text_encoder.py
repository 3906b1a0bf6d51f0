"""Text-encoder parts as one: the weighted sum of the matrices, under one name for each."""

from __future__ import annotations

import json

import pytest
import torch
from raw_lora import ENDINGS, noise, pair

from craft_core.errors import CraftError
from craft_core.lora.text_encoder import count_matrices, merge_text_encoders
from craft_core.types import LoraFile

LAYER = "text_model.encoder.layers.0.self_attn.q_proj"
OTHER = "text_model.encoder.layers.1.mlp.fc1"


def kohya(prefix, path):
    return prefix + path.replace(".", "_")


def file(state, metadata=None) -> LoraFile:
    return LoraFile({}, state, (), metadata or {})


def delta(state, stem, scale=1.0) -> torch.Tensor:
    """alpha / rank * up @ down of kohya tensors."""
    down, up = state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"]
    if f"{stem}.alpha" in state:
        scale = float(state[f"{stem}.alpha"]) / down.shape[0]
    return scale * up.flatten(1).double() @ down.flatten(1).double()


def close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


def merge(files, strengths, dtype=torch.float32):
    return merge_text_encoders(files, strengths, dtype)


def test_matrices_add_up_by_strength():
    stem, other = kohya("lora_te1_", LAYER), kohya("lora_te1_", OTHER)
    one = pair(stem, (6, 5), rank=2) | {f"{stem}.alpha": torch.tensor(1.0)}
    two = pair(stem, (6, 5), rank=3, seed=4) | pair(other, (4, 5), seed=8)
    part = merge([file(one), file(two)], [0.7, -0.4])
    assert part.matrices == 2
    close(delta(part.tensors, stem), 0.7 * delta(one, stem) - 0.4 * delta(two, stem))
    close(delta(part.tensors, other), -0.4 * delta(two, other))


def test_one_file_at_strength_one_keeps_its_bits():
    stem = kohya("lora_te_", LAYER)
    state = pair(stem, (6, 5), dtype=torch.float16) | {f"{stem}.alpha": torch.tensor(3.0)}
    part = merge([file(state)], [1.0], torch.float16)
    assert part.tensors.keys() == state.keys()
    assert all(torch.equal(part.tensors[key], value) for key, value in state.items())


NAMES = [
    kohya("lora_te_", LAYER),
    kohya("lora_te1_", LAYER),
    f"text_encoder.{LAYER}",
    f"base_model.model.text_encoder.{LAYER}",
    "text_encoder.text_model.encoder.layers.0.self_attn.to_q",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_names_of_one_matrix_become_the_first_files(name, ending):
    stem = kohya("lora_te1_", LAYER)
    one, two = pair(stem, (6, 5)), pair(name, (6, 5), ending=ending, seed=3)
    part = merge([file(one), file(two)], [1.0, 1.0])
    assert {key.split(".")[0] for key in part.tensors} == {stem} and part.matrices == 1
    down_end, up_end = ENDINGS[ending]
    second = two[name + up_end].double() @ two[name + down_end].double()
    close(delta(part.tensors, stem), delta(one, stem) + second)


def test_the_second_text_encoder_is_another():
    stems = [kohya("lora_te1_", LAYER), kohya("lora_te2_", LAYER), f"text_encoder_2.{LAYER}"]
    states = [pair(stem, (6, 5), seed=i) for i, stem in enumerate(stems)]
    part = merge([file(state) for state in states], [1.0] * 3)
    assert part.matrices == 2
    assert {key.rsplit(".", 2)[0].split(".lora")[0] for key in part.tensors if "down" in key} == {
        stems[0], stems[1],
    }  # fmt: skip


def test_alpha_in_the_metadata_counts():
    config = json.dumps({"text_encoder.r": 2, "text_encoder.lora_alpha": 4.0})
    state = pair(f"text_encoder.{LAYER}", (6, 5), ending="PEFT")
    part = merge([file(state, {"lora_adapter_metadata": config})], [1.0])
    product = state[f"text_encoder.{LAYER}.lora_B.weight"].double() @ \
        state[f"text_encoder.{LAYER}.lora_A.weight"].double()  # fmt: skip
    close(delta(part.tensors, f"text_encoder.{LAYER}"), 2.0 * product)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_error_told_is_the_distance_to_the_sum(dtype):
    stems = [kohya("lora_te1_", LAYER), kohya("lora_te1_", OTHER)]
    one = pair(stems[0], (6, 5)) | pair(stems[1], (6, 5), seed=2)
    two = pair(stems[0], (6, 5), rank=3, seed=4)
    part = merge([file(one), file(two)], [0.3, 0.7], dtype)
    wanted = {stems[0]: 0.3 * delta(one, stems[0]) + 0.7 * delta(two, stems[0]),
              stems[1]: 0.3 * delta(one, stems[1])}  # fmt: skip
    lost = torch.cat([wanted[stem] - delta(part.tensors, stem) for stem in stems]).norm()
    true = (lost / torch.cat(list(wanted.values())).norm()).item()
    assert part.error == pytest.approx(true, rel=1e-2, abs=2e-7)
    limit = {torch.float32: 2e-7, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    assert part.error < limit and (dtype == torch.float32 or part.error > limit / 50)


def test_sums_that_half_precision_cannot_hold_are_told():
    stem = kohya("lora_te1_", LAYER)
    huge = {key: 1e6 * value for key, value in pair(stem, (6, 5)).items()}
    with pytest.raises(CraftError, match="bf16 or fp32"):
        merge([file(huge)], [1.0], torch.float16)


def test_a_file_of_strength_zero_is_not_there():
    stem = kohya("lora_te1_", LAYER)
    state = pair(stem, (6, 5))
    assert merge([file(state)], [0.0]).tensors == {}
    assert merge([file({})], [1.0]).matrices == 0


def test_other_kinds_are_refused_by_key():
    stem = kohya("lora_te1_", LAYER)
    state = pair(stem, (6, 5)) | {f"{stem}.set_weight": noise(6, 5)}
    with pytest.raises(CraftError, match="set_weight"):
        merge([file(state)], [1.0])


def test_text_encoders_of_different_sizes_are_refused():
    stem = kohya("lora_te1_", LAYER)
    with pytest.raises(CraftError, match="same text encoder"):
        merge([file(pair(stem, (6, 5))), file(pair(stem, (6, 7)))], [1.0, 1.0])


def test_two_names_for_one_matrix_in_one_file_are_refused():
    state = pair(kohya("lora_te_", LAYER), (6, 5)) | pair(kohya("lora_te1_", LAYER), (6, 5))
    with pytest.raises(CraftError, match="name one matrix"):
        merge([file(state)], [1.0])


def test_matrices_are_counted_without_lone_alphas():
    state = pair(kohya("lora_te1_", LAYER), (6, 5)) | {"lora_te1_x.alpha": torch.tensor(1.0)}
    assert count_matrices(file(state)) == 1
    assert merge([file(state)], [1.0]).matrices == 1
