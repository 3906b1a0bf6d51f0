"""CSD in the real host: its features, its name in every result, and its file on the node."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import comfy.clip_vision
import comfy.utils
import folder_paths
import pytest
import torch
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.comfy_adapter.score import csd
from craft_lora_pack.comfy_adapter.score.csd import load_csd
from craft_lora_pack.comfy_adapter.score.vision import encoders_by_role
from craft_lora_pack.nodes.compare import ComparisonGrid
from craft_lora_pack.nodes.score import ContentStyleScore, LoadCSD
from laws.csd_release import (
    GRID,
    LAYERS,
    PATCH,
    SPELLINGS,
    WIDTH,
    csd_weights,
    openai_features,
    prepared,
    write_release,
)
from pair_parts import random_weights

SIDE = GRID * PATCH
NAME = f"CSD ({LAYERS} layers of width {WIDTH}, {{}}, weights "
PREPARED = (
    f"{SIDE} x {SIDE} by bicubic resizing, cropped in the middle, with CLIP's mean and deviation"
)


def tiny_clip(folder: Path) -> comfy.clip_vision.ClipVisionModel:
    """What Load CLIP Vision gives for a small file of CLIP's."""
    config = {
        "hidden_size": 32, "image_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2,
        "num_channels": 3, "patch_size": 4, "intermediate_size": 64, "hidden_act": "quick_gelu",
        "model_type": "clip_vision_model", "projection_dim": 24,
    }  # fmt: skip
    file = folder / "clip.json"  # older ComfyUI takes a file only
    file.write_text(json.dumps(config))
    made = comfy.clip_vision.ClipVisionModel(str(file))
    made.load_sd(random_weights(made.get_sd(), 7))
    return made


def pictures(count: int, seed: int, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """In steps of 1/255, as the host rounds them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, height, width, 3), generator=generator) / 255


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """A folder that the host lists as models/clip_vision, with the release in it."""
    paths = {**folder_paths.folder_names_and_paths}
    paths["clip_vision"] = ([str(tmp_path)], folder_paths.supported_pt_extensions)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", paths)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    write_release(tmp_path / "csd.pth", csd_weights())
    return tmp_path


@pytest.mark.parametrize("name", SPELLINGS)
def test_features_are_those_of_openais_formula(tmp_path, name):
    weights, path = csd_weights(), tmp_path / name
    SPELLINGS[name](path, weights)
    with torch.inference_mode():
        loaded = load_csd(path)
    given = pictures(20, 0)
    for role, matrix in (("style", "last_layer_style"), ("content", "last_layer_content")):
        with torch.inference_mode():
            made = loaded[role].features(given)
        expected = openai_features(weights, prepared(given), matrix)
        torch.testing.assert_close(made.double(), expected, atol=2e-5, rtol=0)
    assert (expected[:-1] * expected[1:]).sum(1).max() < 0.999  # pictures are told apart


def test_files_with_the_same_weights_have_one_name_in_every_spelling(tmp_path):
    names = set()
    for name, write in SPELLINGS.items():
        write(tmp_path / name, csd_weights())
        names |= {load_csd(tmp_path / name)["style"].name}
    write_release(tmp_path / "other.pth", csd_weights(seed=1))
    other = load_csd(tmp_path / "other.pth")
    assert len(names) == 1 and other["style"].name not in names
    assert other["style"].name.startswith(NAME.format("style"))
    assert other["content"].name.startswith(NAME.format("content"))
    assert other["style"].preprocessing == other["content"].preprocessing == PREPARED


def test_a_picture_of_another_size_is_resized_and_cropped_as_clips(tmp_path):
    write_release(tmp_path / "csd.pth", csd_weights())
    style = load_csd(tmp_path / "csd.pth")["style"]
    middle = pictures(1, 3)
    wide = torch.cat([torch.ones(1, SIDE, 5, 3), middle, torch.zeros(1, SIDE, 5, 3)], 2)
    with torch.inference_mode():
        torch.testing.assert_close(style.features(wide), style.features(middle))
        large = pictures(1, 4, 50, 40)
        shown = comfy.clip_vision.clip_preprocess(large, SIDE)
        expected = openai_features(csd_weights(), shown, "last_layer_style")
        torch.testing.assert_close(style.features(large).double(), expected, atol=2e-5, rtol=0)
        with_alpha = torch.cat([middle, torch.rand(1, SIDE, SIDE, 1)], 3)
        torch.testing.assert_close(style.features(with_alpha), style.features(middle))


def test_a_file_is_the_same_without_mapping_it(tmp_path, monkeypatch):
    write_release(tmp_path / "csd.pth", csd_weights())
    mapped = load_csd(tmp_path / "csd.pth")
    monkeypatch.setattr(comfy.utils, "DISABLE_MMAP", True)
    copied = load_csd(tmp_path / "csd.pth")
    (tmp_path / "csd.pth").write_bytes(b"")
    given = pictures(1, 5)
    with torch.inference_mode():
        assert mapped["style"].name == copied["style"].name
        assert copied["style"].features(given).isfinite().all()


def test_scores_say_that_csd_looked_at_style_and_clip_at_content(placed):
    with torch.inference_mode():
        style, content = LoadCSD.execute("csd.pth").result
        images = torch.cat([pictures(2, 0), pictures(1, 2)])
        report, _, data = ContentStyleScore.execute(
            [images], [tiny_clip(placed)], content_reference=[pictures(1, 1)],
            style_reference=[pictures(1, 2)], style_clip_vision=[style],
        ).result  # fmt: skip
    found = json.loads(data)
    assert f"style is scored by {NAME.format('style')}" in report
    assert found["encoders"]["style"] == {"name": style.name, "preprocessing": PREPARED}
    assert found["encoders"]["content"]["name"].startswith("CLIP (2 layers of width 32, projected")
    assert found["pictures"][2]["style"] == pytest.approx(1, abs=1e-4)
    made_by = {one["measure"]: one["encoder"] for one in found["means"]}
    assert made_by["style"] == made_by["style leak"] == style.name
    expected = openai_features(
        csd_weights(), prepared(torch.cat([images, pictures(1, 2)])), "last_layer_style"
    )
    cosines = (expected[:-1] @ expected[-1]).tolist()
    assert [one["style"] for one in found["pictures"]] == pytest.approx(cosines, abs=1e-4)
    assert encoders_by_role([content], [style]) == {"content": content, "style": style}


def test_both_outputs_of_the_node_score_a_grid(placed):
    with torch.inference_mode():
        style, content = LoadCSD.execute("csd.pth").result
        _, _, report, _ = ComparisonGrid.execute(
            [pictures(1, 0), pictures(1, 1)], ["a", "b"], ["x", "x"], [64],
            content_reference=[pictures(1, 2)], style_reference=[pictures(1, 3)],
            clip_vision=[content], style_clip_vision=[style],
        ).result  # fmt: skip
    for role in ("content", "style"):
        assert f"{role} is scored by {NAME.format(role)}" in report
    assert "CLIP (" not in report


def test_the_node_lists_clip_vision_files_and_refuses_others_before_a_run(placed):
    shutil.copy(placed / "csd.pth", placed / "damaged.pth")
    (placed / "damaged.pth").write_bytes((placed / "csd.pth").read_bytes()[:3000])
    weights = csd_weights()
    del weights["last_layer_content"]
    SPELLINGS["plain.safetensors"](placed / "half.safetensors", weights)
    assert csd.csd_files() == ["csd.pth", "damaged.pth", "half.safetensors"]
    options = LoadCSD.define_schema().inputs[0].options
    assert options == csd.csd_files()
    assert LoadCSD.validate_inputs("csd.pth") is True
    assert LoadCSD.validate_inputs(None) is True
    assert "damaged.pth cannot be read" in LoadCSD.validate_inputs("damaged.pth")
    assert "it has no last_layer_content" in LoadCSD.validate_inputs("half.safetensors")
    assert "no file 'gone.pth'" in LoadCSD.validate_inputs("gone.pth")
    before = LoadCSD.fingerprint_inputs("csd.pth")
    assert before == LoadCSD.fingerprint_inputs("csd.pth")
    write_release(placed / "csd.pth", csd_weights(seed=1))
    assert LoadCSD.fingerprint_inputs("csd.pth") != before


def test_without_a_file_the_menu_says_where_it_belongs(placed, monkeypatch):
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    (placed / "csd.pth").unlink()
    assert LoadCSD.define_schema().inputs[0].options == ["(none in models/clip_vision)"]


def test_a_server_scores_by_a_file_that_was_put_there(live_server):
    folder = live_server.server.folder / "models" / "clip_vision"
    folder.mkdir(parents=True, exist_ok=True)
    write_release(folder / "small_csd.pth", csd_weights())
    prompt = {
        "1": {"class_type": "CRAFTLoadCSD", "inputs": {"csd": "small_csd.pth"}},
        "2": {"class_type": "EmptyImage",
              "inputs": {"width": 24, "height": 16, "batch_size": 1, "color": 0x2040FF}},
        "3": {"class_type": "CRAFTScore", "inputs": {
            "images": ["2", 0], "clip_vision": ["1", 1], "content_reference": ["2", 0],
            "style_reference": ["2", 0], "style_clip_vision": ["1", 0], "crop": "center"}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }  # fmt: skip
    (report,) = live_server.run(prompt).outputs["4"]["text"]
    assert f"style is scored by {NAME.format('style')}" in report
    assert f"content is scored by {NAME.format('content')}" in report
    SPELLINGS["plain.safetensors"](folder / "no_csd.safetensors", {"weight": torch.ones(1)})
    prompt["1"]["inputs"]["csd"] = "no_csd.safetensors"
    with pytest.raises(RemoteError, match="no_csd.safetensors is no CSD file"):
        live_server.run(prompt)
