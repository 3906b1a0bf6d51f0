"""`fuse` without a model: from two files on disk to a third, and every mistake told in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from raw_lora import pair
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from unet_layers import sdxl_layers

from craft_core.cli.main import main
from craft_core.fusion import FUSION
from craft_core.lora import read_lora
from craft_core.merging import MERGES

PATHS = ("input_blocks.4.1.proj_in", "output_blocks.0.1.proj_out", "output_blocks.1.1.proj_in")
DIFFUSERS = ("down_blocks.1.attentions.0.proj_in", "up_blocks.0.attentions.0.proj_out",
             "up_blocks.0.attentions.1.proj_in")  # fmt: skip
LAYERS = dict.fromkeys(PATHS, (12, 10))
TEXT = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
STRENGTHS = (1.0, 0.5)


@pytest.fixture
def files(tmp_path):
    """A content LoRA in kohya's LDM names, a style LoRA as PEFT saves it."""
    content, style = {}, {}
    for number, (path, name) in enumerate(zip(PATHS, DIFFUSERS, strict=True)):
        stem = f"lora_unet_{path.replace('.', '_')}"
        content |= pair(stem, (12, 10), rank=2, seed=number)
        content[f"{stem}.alpha"] = torch.tensor(1.0)
        style |= pair(f"unet.{name}", (12, 10), rank=3, ending="PEFT", seed=30 + number)
    content |= pair(TEXT, (6, 5), seed=70)
    found = [str(tmp_path / f"{name}.safetensors") for name in ("dog", "ink")]
    for file, state in zip(found, (content, style), strict=True):
        save_file(state, file)
    return found


def arguments(files, *flags, save=None):
    given = ["fuse", "--content-lora", files[0], "--style-lora", files[1], "0.5"]
    return [*given, "--save", save or f"{files[0]}.fused.safetensors", *flags]


def direct(files, number) -> np.ndarray:
    """strength * scale * up @ down of both files in one layer, from their raw tensors."""
    content, style = (load_file(file) for file in files)
    stem = f"lora_unet_{PATHS[number].replace('.', '_')}"
    name = f"unet.{DIFFUSERS[number]}"
    up, down = (content[f"{stem}.lora_{end}.weight"].numpy() for end in ("up", "down"))
    b, a = (style[f"{name}.lora_{letter}.weight"].numpy() for letter in "BA")
    return STRENGTHS[0] * 0.5 * up @ down + STRENGTHS[1] * b @ a


def test_files_in_two_namings_become_one_that_is_their_sum(files, capsys):
    assert main(arguments(files, "--method", "direct", "--save-as", "fp32")) == 0
    printed = capsys.readouterr().out.splitlines()
    path = printed[-1]
    assert path == f"{files[0]}.fused.safetensors"
    assert any("3 layers are in several files" in line for line in printed)
    read = read_lora(path, LAYERS)
    for number, layer in enumerate(PATHS):
        (one,) = read.layers[layer]
        np.testing.assert_allclose(one.delta().numpy(), direct(files, number), atol=1e-6)
        assert one.rank == 5
    assert {key.split(".lora")[0].split(".alpha")[0] for key in read.text_encoder} == {TEXT}


def test_the_metadata_says_how_to_make_it_again(files):
    flags = ("--method", "ties", "--density", "0.4", "--rank", "3")
    assert main(arguments(files, *flags)) == 0
    with safe_open(f"{files[0]}.fused.safetensors", "pt") as file:
        told = file.metadata()
    assert told["craft_fused"] == "ties" and told["craft_fused_rank"] == "3"
    assert json.loads(told["craft_fused_settings"])["density"] == 0.4
    sources = json.loads(told["craft_fused_sources"])
    assert [(s["name"], s["role"], s["strength"]) for s in sources] == [
        ("dog.safetensors", "content", 1.0), ("ink.safetensors", "style", 0.5),
    ]  # fmt: skip
    assert 0 < float(told["craft_fused_error"]) < 1


RUN = [m.key for m in FUSION if m.key not in ("b_lora", "composite")] + list(MERGES.keys())


@pytest.mark.parametrize("method", RUN)
def test_every_method_that_needs_no_model_writes_a_file_the_same_twice(files, tmp_path, method):
    rank = () if method in FUSION.keys() or MERGES[method].traits.exact else ("--rank", "4")
    saved = [tmp_path / f"{name}.safetensors" for name in ("one", "two")]
    for path in saved:
        assert main(arguments(files, "--method", method, *rank, save=str(path))) == 0
    assert saved[0].read_bytes() == saved[1].read_bytes()
    assert set(read_lora(saved[0], LAYERS).layers) <= set(PATHS)


def test_a_method_that_moves_says_when(files, tmp_path):
    kept = []
    for progress in ("0", "1"):
        path = tmp_path / f"{progress}.safetensors"
        flags = ("--method", "switch", "--every", "2", "--progress", progress, "--steps", "4")
        assert main(arguments(files, *flags, save=str(path))) == 0
        with safe_open(path, "pt") as file:
            assert file.metadata()["craft_fused_progress"] == progress
        kept.append({one.rank for (one,) in read_lora(path, LAYERS).layers.values()})
    assert kept == [{2}, {3}]  # content has the first turn, style the second


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--method", "ties"), "rank"),
        (("--method", "composite"), "averages the predictions"),
        (("--method", "b_lora"), "--checkpoint"),
        (("--method", "craft", "--layer-sets", "b-lora"), "--checkpoint"),
        (("--method", "direct", "--density", "0.5"), "density"),
        (("--method", "dare", "--drop-rate", "1", "--rank", "4"), "drop_rate"),
        (("--method", "direct", "--progress", "1.5"), "--progress"),
        (("--method", "direct", "--progress", "nan"), "--progress"),
        (("--method", "direct", "--rank", "-1"), "--rank"),
        (("--method", "direct", "--content-lora", "none.safetensors"), "none.safetensors"),
        (("--method", "direct", "--content-lora", "pickle.pt"), "run code"),
        (("--method", "direct", "--save", "/nowhere/at/all.safetensors"), "--save"),
        (("--method", "direct", "--save", "fused.ckpt"), ".safetensors"),
        (("--method", "svd", "--style-lora", __file__, "much"), "--style-lora"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(files, tmp_path, capsys, flags, told):
    before = sorted(tmp_path.iterdir())
    assert main(arguments(files, *flags)) == 1
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert last.startswith("Error: ") and told in last and printed.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_is_never_written_over(files, capsys):
    before = open(files[1], "rb").read()
    assert main(arguments(files, "--method", "direct", save=files[1])) == 1
    assert "is there already" in capsys.readouterr().err
    assert open(files[1], "rb").read() == before


def test_without_a_lora_there_is_nothing_to_fuse(tmp_path, capsys):
    assert main(["fuse", "--method", "direct", "--save", str(tmp_path / "f.safetensors")]) == 1
    assert "--content-lora" in capsys.readouterr().err


def test_files_that_share_no_layer_are_noted(files, tmp_path, capsys):
    other = str(tmp_path / "flux.safetensors")
    save_file(pair("lora_unet_double_blocks_0_img_attn_qkv", (9, 6)), other)
    assert main(arguments([files[0], other], "--method", "direct")) == 0
    assert "give it with --checkpoint" in capsys.readouterr().out


def test_the_paths_are_sdxls():
    layers = sdxl_layers()
    assert all(path in layers for path in PATHS)
