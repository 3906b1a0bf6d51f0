"""`fuse` without a model: from two files on disk to a third, and every mistake is one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from craft_lora_pack.cli.bake import read_files
from craft_lora_pack.cli.main import main
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.lora import read_lora
from craft_lora_pack.craft_core.merging import MERGES
from raw_lora import pair
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from unet_layers import sdxl_layers

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
        recorded = file.metadata()
    assert recorded["craft_fused"] == "ties" and recorded["craft_fused_rank"] == "3"
    assert json.loads(recorded["craft_fused_settings"])["density"] == 0.4
    sources = json.loads(recorded["craft_fused_sources"])
    assert [(s["name"], s["role"], s["strength"]) for s in sources] == [
        ("dog.safetensors", "content", 1.0), ("ink.safetensors", "style", 0.5),
    ]  # fmt: skip
    assert 0 < float(recorded["craft_fused_error"]) < 1


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
    ("flags", "message"),
    [
        (("--method", "ties"), "rank"),
        (("--method", "b_lora"), "--checkpoint"),
        (("--method", "craft", "--layer-sets", "b-lora"), "--checkpoint"),
        (("--method", "direct", "--density", "0.5"), "density"),
        (("--method", "b_lora"), "another method"),
        (("--method", "direct", "--layer-sets", "all"), "--layer-sets with direct"),
        (("--method", "direct", "--cpu"), "--cpu without a model"),
        (("--method", "direct", "--content-lora", "none.safetensors"), "none.safetensors"),
        (("--method", "direct", "--content-lora", "pickle.pt"), "run code"),
        (("--method", "direct", "--save", "/nowhere/at/all.safetensors"), "--save"),
        (("--method", "direct", "--save", "fused.ckpt"), ".safetensors"),
        (("--method", "svd", "--style-lora", __file__, "much"), "--style-lora"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(files, tmp_path, capsys, flags, message):
    before = sorted(tmp_path.iterdir())
    assert main(arguments(files, *flags)) == 1
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert last.startswith("Error: ") and message in last and printed.out == ""
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "composite"), "composite"),
        (("--method", "dare", "--drop-rate", "1", "--rank", "4"), "drop_rate"),
        (("--method", "ties", "--density", "3", "--rank", "4"), "density"),
        (("--method", "direct", "--progress", "1.5"), "--progress"),
        (("--method", "direct", "--progress", "nan"), "--progress"),
        (("--method", "direct", "--steps", "0"), "--steps"),
        (("--method", "direct", "--rank", "-1"), "--rank"),
        (("--method", "direct", "--rank", "5000"), "from 0 to 4096"),
    ],
)
def test_a_flag_out_of_its_range_leaves_with_2(files, tmp_path, capsys, flags, message):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as caught:
        main(arguments(files, *flags))
    assert caught.value.code == 2 and message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_is_never_written_over(files, capsys):
    before = open(files[1], "rb").read()
    assert main(arguments(files, "--method", "direct", save=files[1])) == 1
    assert "is there already" in capsys.readouterr().err
    assert open(files[1], "rb").read() == before


def test_a_file_that_appears_during_the_bake_is_not_written_over(files, capsys, monkeypatch):
    path = f"{files[0]}.fused.safetensors"

    def appears(bar, done, total):
        with open(path, "wb") as file:
            file.write(b"somebody else's")

    monkeypatch.setattr("craft_lora_pack.cli.fuse.LayerProgressBar.__call__", appears)
    assert main(arguments(files, "--method", "direct")) == 1
    assert "is there already" in capsys.readouterr().err
    assert open(path, "rb").read() == b"somebody else's"


def test_a_folder_that_cannot_be_written_to_is_told_before_the_bake(files, capsys, monkeypatch):
    def refused(*given):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("craft_lora_pack.craft_core.writing.open", refused, raising=False)
    monkeypatch.setattr("craft_lora_pack.cli.fuse.bake_without_model", lambda *given: 1 / 0)
    assert main(arguments(files, "--method", "direct")) == 1
    assert "cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize("left", [KeyboardInterrupt, CraftError("a", "b", "c")])
def test_the_bar_is_closed_whatever_happens(files, monkeypatch, capsys, left):
    seen = []

    def stopped(data, watch):
        watch(1, 3)
        seen.append(watch._bar)
        raise left

    monkeypatch.setattr("craft_lora_pack.cli.fuse.bake_without_model", stopped)
    assert main(arguments(files, "--method", "direct")) in (1, 130)
    assert seen[0].disable and capsys.readouterr().err  # a closed bar is disabled


def test_without_a_lora_there_is_nothing_to_fuse(tmp_path, capsys):
    assert main(["fuse", "--method", "direct", "--save", str(tmp_path / "f.safetensors")]) == 1
    assert "--content-lora" in capsys.readouterr().err


FLUX, SD1 = "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_input_blocks_1_1_proj_in"
UNCLEAR, ELSE = "lora_unet_middle_block_1_proj_in", "lora_unet_output_blocks_5_1_proj_in"
TRANSFORMER = "lora_unet_layers_0_attention"


@pytest.mark.parametrize(
    ("stems", "message"),
    [
        ((FLUX, SD1), "looks like Flux"),
        ((f"lora_unet_{PATHS[1].replace('.', '_')}", SD1), "SD1.x or SD2.x"),
        ((UNCLEAR, TRANSFORMER), "no layer in common"),
        ((UNCLEAR, ELSE), "Give that model with --checkpoint"),
    ],
)
@pytest.mark.parametrize("command", ["fuse", "inspect"])
def test_files_of_different_models_are_refused(tmp_path, capsys, stems, message, command):
    given = [str(tmp_path / f"{name}.safetensors") for name in ("a", "b")]
    for file, stem in zip(given, stems, strict=True):
        save_file(pair(stem, (9, 6)), file)
    flags = arguments(given, "--method", "direct") if command == "fuse" else ["inspect", *given]
    assert main(flags) == 1
    assert message in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 2


def test_files_of_one_family_need_no_layer_in_common(tmp_path, capsys):
    given = [str(tmp_path / f"{name}.safetensors") for name in ("a", "b")]
    for file, path in zip(given, PATHS[1:], strict=True):
        save_file(pair(f"lora_unet_{path.replace('.', '_')}", (12, 10)), file)
    assert main(arguments(given, "--method", "direct")) == 0
    assert "0 layers are in several files by their names, 2 in one" in capsys.readouterr().out


def test_names_that_are_no_layers_are_an_error_unless_allowed(files, capsys):
    state = load_file(files[1]) | {"something.else": torch.zeros(1)}
    save_file(state, files[1])
    assert main(arguments(files, "--method", "direct")) == 1
    printed = capsys.readouterr().err
    assert "ink.safetensors: 1 keys (something.else)" in printed and "--allow-unmatched" in printed
    assert main(arguments(files, "--method", "direct", "--allow-unmatched")) == 0
    assert "Matches nothing: ink.safetensors: 1 keys" in capsys.readouterr().out


@pytest.mark.parametrize("end", ["up", "down"])
def test_half_a_layer_is_an_error_unless_allowed(files, capsys, end):
    state = load_file(files[0])
    state |= {f"lora_unet_output_blocks_2_1_proj_in.lora_{end}.weight": torch.zeros(2, 2)}
    save_file(state, files[0])
    assert main(arguments(files, "--method", "direct")) == 1
    assert f"just lora_unet_output_blocks_2_1_proj_in.lora_{end}" in capsys.readouterr().err
    assert main(arguments(files, "--method", "direct", "--allow-unmatched")) == 0
    assert "lora_unet_output_blocks_2_1_proj_in" in capsys.readouterr().out


def test_a_file_that_is_no_lora_is_refused_without_a_word_on_a_model(files, capsys):
    save_file({"model.diffusion_model.out.2.weight": torch.zeros(4, 4)}, files[1])
    assert main(arguments(files, "--method", "direct")) == 1
    printed = capsys.readouterr().err
    assert "ink.safetensors holds no update of a layer" in printed and "The model" not in printed


def test_the_report_says_where_each_lora_acts_in_this_file(files, tmp_path, capsys):
    state = load_file(files[1])
    save_file({k: v for k, v in state.items() if DIFFUSERS[0] not in k}, files[1])

    def lines(*flags):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        assert main(arguments(files, *flags, save=str(path))) == 0
        return capsys.readouterr().out.splitlines()

    content, style = (
        "content dog.safetensors at 1: acts in",
        "style ink.safetensors at 0.5: acts in",
    )
    whole = lines("--method", "direct")
    assert f"{content} 3 of 3 layers" in whole and f"{style} 2 of 2 layers" in whole
    assert any(line.startswith("Text encoder: 1 matrix added up; relative error") for line in whole)
    last = lines("--method", "switch", "--every", "2", "--progress", "1", "--steps", "4")
    assert f"{content} 0 of 3 layers" in last and f"{style} 2 of 2 layers" in last
    assert any("text-encoder part of dog.safetensors is in the file too" in line for line in last)
    first = lines("--method", "switch", "--every", "2", "--progress", "0", "--steps", "4")
    assert f"{style} 0 of 2 layers" in first
    assert not any("text-encoder part" in line for line in first)  # ink has none
    split = lines("--method", "craft")
    counts = [int(one.split("acts in ")[1].split()[0]) for one in split if "acts in" in one]
    assert sum(counts) == 3 and "Layer sets: auto" in split


@pytest.mark.parametrize("method", ["switch", "k_lora", "craft", "direct"])
@pytest.mark.parametrize("off", [0, 1])
def test_a_lora_of_strength_zero_is_off_for_every_method(files, tmp_path, method, off):
    roles = ("content", "style")
    alone, both = tmp_path / "alone.safetensors", tmp_path / "both.safetensors"
    flags = ["--method", method, "--progress", str(1 - off)]  # at the turn of the one that is off
    one = ["fuse", f"--{roles[1 - off]}-lora", files[1 - off], *flags, "--save", str(alone)]
    two = ["fuse", "--content-lora", files[0], str(off), "--style-lora", files[1], str(1 - off)]
    assert main(one) == 0 and main([*two, *flags, "--save", str(both)]) == 0
    first, second = (read_files([str(path)]).files[0].layers for path in (alone, both))
    assert first.keys() == second.keys() and len(first) == len(PATHS)
    for path, (update,) in first.items():
        assert torch.equal(update.delta(), second[path][0].delta())


def test_the_paths_are_sdxls():
    layers = sdxl_layers()
    assert all(path in layers for path in PATHS)
