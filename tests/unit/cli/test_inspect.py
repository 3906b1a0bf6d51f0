"""`inspect`: the numbers of two files, as a table and as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from craft_lora_pack.cli.main import main
from raw_lora import pair
from safetensors.torch import load_file, save_file

BLOCKS = ("input_blocks_4_1", "middle_block_1", "output_blocks_10_1")
STEMS = [f"lora_unet_{block}_proj_{end}" for block in BLOCKS for end in ("in", "out")]
TEXT = "lora_te1_text_model_encoder_layers_0_mlp_fc1"


@pytest.fixture
def files(tmp_path):
    """Two LoRAs with four layers in common; the second has a text-encoder part."""
    one, two = {}, {}
    for number, stem in enumerate(STEMS):
        if number != 5:
            one |= pair(stem, (12, 10), rank=2, seed=number)
            one[f"{stem}.alpha"] = torch.tensor(1.0)
        if number != 0:
            two |= pair(stem, (12, 10), rank=3, seed=40 + number)
    two |= pair(TEXT, (6, 5))
    two["something.else"] = torch.zeros(1)
    found = [str(tmp_path / f"{name}.safetensors") for name in ("dog", "ink")]
    for file, state in zip(found, (one, two), strict=True):
        save_file(state, file, {"made_by": "test"})
    return found


def delta(file, stem) -> np.ndarray:
    state = load_file(file)
    down, up = (state[f"{stem}.lora_{end}.weight"].double().numpy() for end in ("down", "up"))
    alpha = state.get(f"{stem}.alpha")
    return (1.0 if alpha is None else float(alpha) / down.shape[0]) * up @ down


def inspected(capsys, *arguments):
    assert main(["inspect", *arguments]) == 0
    return capsys.readouterr().out


def test_the_pairs_numbers_are_those_of_the_matrices(files, capsys):
    report = json.loads(inspected(capsys, *files, "--json"))
    shared = STEMS[1:5]
    a, b = (np.concatenate([delta(file, stem) for stem in shared]) for file in files)
    numbers = report["pair"]
    cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    assert numbers["cosine"] == pytest.approx(cosine, rel=1e-5)
    assert numbers["conflict"] == pytest.approx((a * b < 0).mean())
    smaller = np.minimum(np.abs(a), np.abs(b))
    assert numbers["weighted"] == pytest.approx(smaller[a * b < 0].sum() / smaller.sum())
    assert 0 < numbers["up"] < 1 and 0 < numbers["down"] < 1


def test_every_layer_is_reported(files, capsys):
    report = json.loads(inspected(capsys, *files, "--json"))
    assert [one["name"] for one in report["files"]] == ["dog.safetensors", "ink.safetensors"]
    assert [one["layers"] for one in report["files"]] == [5, 5]
    assert [one["text_encoder_matrices"] for one in report["files"]] == [0, 1]
    assert report["files"][1]["unmatched"] == ["something.else"]
    assert report["files"][0]["metadata"] == {"made_by": "test"}
    assert [one["block"] for one in report["layers"]] == [b for b in BLOCKS for _ in (1, 2)]
    first, last = report["layers"][0], report["layers"][-1]
    assert first["files"][1] is None and first["pair"] is None
    assert last["files"][0] is None and last["pair"] is None
    matrix = delta(files[0], STEMS[0])
    assert first["files"][0]["size"] == pytest.approx(np.linalg.norm(matrix), rel=1e-5)
    assert (first["files"][0]["rank"], first["files"][0]["alpha"]) == (2, 1.0)
    assert first["files"][0]["kind"] == "LoRA"
    assert first["files"][0]["multiplications"] == 2 * 10 + 12 * 2
    assert first["files"][0]["cost"] == (2 * 10 + 12 * 2) / (12 * 10)


def test_the_table_has_a_line_a_block_and_one_for_all(files, capsys):
    lines = inspected(capsys, *files).splitlines()
    assert any("5 layers, rank 2, alpha 1" in line for line in lines)
    assert any("text encoder: 1 matrix" in line for line in lines)
    assert any("match nothing: 1 (something.else)" in line for line in lines)
    assert any("4 layers in both, 1 in A alone, 1 in B alone" in line for line in lines)
    header = next(i for i, line in enumerate(lines) if line.startswith("block"))
    assert [line.split()[0] for line in lines[header + 1 : header + 5]] == [*BLOCKS, "all"]
    assert "cosine" in lines[header] and lines[header + 4].split()[1] == "6"
    assert len({len(line) for line in lines[header : header + 5]}) == 1


def test_a_kind_has_its_layers_its_ranks_and_its_cost_in_a_line(files, capsys):
    text = inspected(capsys, files[0])
    assert "LoRA in 5 layers: rank 2, cost 36.67% of these layers (36.67% to 36.67%)" in text
    assert "multiplications of the update" in text


def test_one_file_has_no_pair(files, capsys):
    text = inspected(capsys, files[0])
    assert "cosine" not in text and "5 layers" in text
    assert json.loads(inspected(capsys, files[0], "--json"))["pair"] is None


def test_a_file_against_itself_is_one_direction(files, capsys):
    report = json.loads(inspected(capsys, files[0], files[0], "--json"))["pair"]
    assert report["conflict"] == report["weighted"] == 0
    assert [report[key] for key in ("cosine", "up", "down")] == pytest.approx([1.0] * 3)


def test_what_cannot_be_carried_is_named_and_the_rest_described(files, capsys):
    state = load_file(files[0])
    state[f"{STEMS[0]}.set_weight"] = torch.ones(12, 1)
    state["lora_unet_middle_block_1_norm.ia3_l"] = torch.ones(12)
    save_file(state, files[0])
    text = inspected(capsys, *files)
    assert "5 layers" in text and "replaced weight: 1, IA3 of PEFT: 1" in text
    assert "LoRA in 5 layers" in text
    told = json.loads(inspected(capsys, files[0], "--json"))["files"][0]
    assert told["not_described"] == {"replaced weight": 1, "IA3 of PEFT": 1}


def test_what_depends_on_the_models_weights_is_counted(files, capsys):
    state = load_file(files[0])
    state[f"{STEMS[0]}.dora_scale"] = torch.ones(12, 1)
    save_file(state, files[0])
    text = inspected(capsys, *files)
    assert "LoRA in 4 layers" in text
    assert "1 layer not measured (DoRA)" in text and "--checkpoint" in text
    told = json.loads(inspected(capsys, files[0], "--json"))["files"][0]
    assert told["not_measured"] == 1 and told["layers"] == 5


def test_differences_of_biases_and_norms_are_described(files, capsys):
    state = load_file(files[0])
    state[f"{STEMS[0]}.diff_b"] = torch.ones(12)
    state["lora_unet_middle_block_1_norm.diff"] = torch.ones(12)
    state["lora_unet_middle_block_1_norm.diff_b"] = torch.zeros(12)
    save_file(state, files[0])
    text = inspected(capsys, *files)
    for kind in ("LoRA and bias difference in 1 layer", "LoRA in 4 layers",
                 "weight difference in 1 layer"):  # fmt: skip
        assert kind in text
    assert "all zeros, and left out: 1 differences" in text


def test_a_file_of_a_text_encoder_alone_is_described(tmp_path, capsys):
    path = str(tmp_path / "text.safetensors")
    save_file(pair(TEXT, (6, 5)) | {"something.else": torch.zeros(1)}, path)
    text = inspected(capsys, path)
    assert "0 layers" in text and "text encoder: 1 matrix" in text and "something.else" in text
    assert json.loads(inspected(capsys, path, "--json"))["layers"] == []


def test_an_embedding_and_scales_in_the_metadata_are_told(tmp_path, capsys):
    file, stem = str(tmp_path / "a.safetensors"), "unet.mid_block.attentions.0.proj_in"
    state = pair(stem, (12, 10), ending="PEFT") | {"bundle_emb.word.clip_l": torch.zeros(1)}
    config = json.dumps({"unet.r": 2, "unet.lora_alpha": 4})
    save_file(state, file, {"lora_adapter_metadata": config})
    told = inspected(capsys, file)
    assert "an embedding, which no LoRA loader applies: bundle_emb.word.clip_l" in told
    assert "1 layer is scaled by the alpha or rsLoRA in the file's metadata, 2 times" in told
    assert "match nothing" not in told


def test_half_a_layer_matches_nothing_and_one_layer_is_one(tmp_path, capsys):
    path = str(tmp_path / "half.safetensors")
    state = pair(STEMS[0], (12, 10)) | {f"{STEMS[1]}.lora_down.weight": torch.zeros(2, 2)}
    save_file(state, path)
    text = inspected(capsys, path)
    assert " 1 layer, rank 2" in text and f"match nothing: 1 ({STEMS[1]})" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [(["a.safetensors"] * 3, "3 files"), (["none.safetensors"], "cannot be read"),
     (["model.pt"], "run code")],
)  # fmt: skip
def test_a_mistake_is_one_line(capsys, given, message):
    assert main(["inspect", *given]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and printed.err.startswith("Error: ")
