"""What the page learns of a model file before anything is loaded."""

import asyncio
import json
import struct
from types import SimpleNamespace

import comfy.ops
import comfy.supported_models
import comfy.utils
import folder_paths
import pytest
import small_world_models as small
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.model import file_layers as file_layers_module
from craft_lora_pack.comfy_adapter.model.file_layers import file_latent, file_layers, file_of
from craft_lora_pack.comfy_adapter.page import routes
from craft_lora_pack.comfy_adapter.page.layer_counts import layer_counts
from craft_lora_pack.comfy_adapter.page.lora_info import lora_info
from craft_lora_pack.comfy_adapter.page.routes import method_traits
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.families import FAMILIES
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.projection import Projected, backbone_metadata
from craft_lora_pack.craft_core.routing.layer_sets import resolve
from craft_lora_pack.craft_core.routing.presets import PRESETS
from safetensors.torch import save_file

PREFIX = "model.diffusion_model."  # of a checkpoint's diffusion model


@pytest.fixture(scope="module")
def world():
    return small.load()


@pytest.fixture(scope="module")
def path(world):
    return file_of("checkpoints", small.CHECKPOINT)


def test_the_header_tells_the_layers_that_the_loaded_model_has(world, path):
    assert file_layers(path) == model_layers(world.model)


def test_the_counts_are_those_of_the_loaded_model(world, path):
    answer = layer_counts(path)
    layers = model_layers(world.model)
    assert answer["layers"] == len(layers)
    assert set(answer["sets"]) == {key for key in PRESETS if key != "auto"}
    elsewhere = {key for key, counted in answer["sets"].items() if "error" in counted}
    assert elsewhere == {"splitflux", "b-lora-flux", "video-audio"}  # of other families of models
    for key in answer["sets"].keys() - elsewhere:
        counted, sets = answer["sets"][key], resolve(key, layers)
        assert (counted["content"], counted["style"]) == (len(sets.content), len(sets.style))
        assert counted["unmatched"] == list(sets.unmatched)


def test_custom_patterns_are_counted_and_what_they_miss_is_named(path):
    answer = layer_counts(path, "content: middle_block\ncontent: nowhere.1\nstyle: output_blocks")
    custom = answer["sets"]["custom"]
    assert custom["content"] > 0 and custom["style"] > 0
    assert custom["unmatched"] == ["content: nowhere.1"]
    assert "No content pattern" in layer_counts(path, "content: nowhere")["sets"]["custom"]["error"]


@pytest.mark.parametrize("kind", [KeyError, IndexError, ZeroDivisionError, RuntimeError, TypeError])
def test_a_header_that_the_host_cannot_tell_is_told(path, monkeypatch, kind):
    def breaks(_):
        raise kind("blocks")

    monkeypatch.setattr(file_layers_module, "_diffusion_model", breaks)
    with pytest.raises(CraftError, match="shapes that no model has"):
        file_layers(path)


@pytest.mark.parametrize(
    ("route", "reads"),
    [
        ("_layer_sets", "layer_counts"),
        ("_trigger_words", "_words_of"),
        ("_lora_info", "lora_info"),
        ("_latent", "file_latent"),
    ],
)
@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "gone", "a"), RecursionError(), MemoryError()]
)
def test_the_route_answers_what_cannot_be_read(monkeypatch, error, route, reads):
    def breaks(*_):
        raise error

    monkeypatch.setattr(routes, reads, breaks)
    query = {"kind": "checkpoints", "name": small.CHECKPOINT}
    request = SimpleNamespace(rel_url=SimpleNamespace(query=query))
    answer = asyncio.run(getattr(routes, route)(request))
    assert answer.status == 200 and json.loads(answer.text)["error"]


def header_only(file, shapes):
    """A safetensors file cut off after its header."""
    entries = {name: {"dtype": "F16", "shape": shape} for name, shape in shapes.items()}
    header = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    return file


def test_a_file_in_diffusers_names_has_the_hosts_layers(tmp_path):
    """SDXL's UNet under diffusers' names, as the host's own table spells them."""
    config = dict(comfy.supported_models.SDXL.unet_config) | {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "num_classes": "sequential",
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10, "num_head_channels": 64, "use_spatial_transformer": True,
    }  # fmt: skip
    unet = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)
    own = {key: list(weight.shape) for key, weight in unet.state_dict().items()}
    names = comfy.utils.unet_to_diffusers(config)
    renamed = {key: own[ldm] for key, ldm in names.items() if ldm in own}
    file = header_only(tmp_path / "unet.safetensors", renamed)
    layers = dict(weights_of(unet))
    assert len(layers) > 700 and file_layers(file) == layers


UNETS = {
    "SD15": {"model_channels": 320, "num_heads": 8, "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
             "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1,
             "channel_mult": [1, 2, 4, 4], "num_res_blocks": [2] * 4},
    "SDXL": {"model_channels": 320, "num_head_channels": 64, "num_classes": "sequential",
             "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
             "transformer_depth_middle": 10, "channel_mult": [1, 2, 4], "num_res_blocks": [2] * 3},
}  # fmt: skip


@pytest.mark.parametrize("kind", UNETS)
def test_the_header_tells_the_latent_that_a_picture_of_the_family_starts_from(tmp_path, kind):
    config = dict(getattr(comfy.supported_models, kind).unet_config) | UNETS[kind] | {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True,
    }  # fmt: skip
    unet = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)
    shapes = {f"{PREFIX}{k}": list(weight.shape) for k, weight in unet.state_dict().items()}
    file = header_only(tmp_path / "checkpoint.safetensors", shapes)
    family = next(one for one in FAMILIES.values() if kind in one.classes)
    assert file_latent(file) == (family.latent, family.looks_like)
    assert family.latent[1] in (512, 1024)


def test_a_model_of_no_family_may_tell_its_own_latent(path, tmp_path):
    latent, family = file_latent(path)
    assert latent == ("EmptyLatentImage", 64, 64)  # the small world
    assert family == lora_info(small.CONTENT)["family"]
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert file_latent(tmp_path / "other.safetensors") == (None, "")


def weights_of(unet):
    for path, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            yield path, tuple(module.weight.shape)


def test_what_cannot_be_told_is_refused_in_words(tmp_path):
    for kind, name in (("checkpoints", "absent.safetensors"), ("loras", small.CONTENT), ("", "")):
        with pytest.raises(CraftError, match="There is no file"):
            file_of(kind, name)
    torch.save({}, tmp_path / "old.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00\x01")
    for name in ("old.ckpt", "cut.safetensors"):
        with pytest.raises(CraftError, match="cannot be read without loading"):
            file_layers(tmp_path / name)
    save_file({"a": torch.zeros(2)}, tmp_path / "empty.safetensors")
    with pytest.raises(CraftError, match="no layers of a diffusion model"):
        file_layers(tmp_path / "empty.safetensors")


def test_the_page_learns_the_traits_of_every_method():
    answer = method_traits()
    assert set(answer) == set(FUSION.keys())
    assert answer["b_lora"]["pinned"] == "b-lora" and answer["direct"]["layer_sets"] is False


def test_the_page_learns_what_a_lora_file_says_of_itself(tmp_path):
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"
    text = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    tensors = {f"{name}.lora_down.weight": torch.zeros(4, 8) for name in (stem, text)}
    tensors |= {f"{name}.lora_up.weight": torch.zeros(8, 4) for name in (stem, text)}
    metadata = {"ss_sd_model_name": "base.safetensors", "modelspec.trigger_phrase": "sks dog"}
    metadata |= backbone_metadata([Projected("one.safetensors", "0123456789ab", "both", 1.0)])
    (tmp_path / "own dogs").mkdir()
    save_file(tensors, tmp_path / "own dogs" / "a#1.safetensors", metadata)
    expected = {
        "kinds": {"LoRA": 1}, "ranks": [4], "text_encoder": 1, "family": "SDXL",
        "stated": ["base.safetensors"], "words": ["sks dog"], "picture": None,
            "basis": "one.safetensors (0123456789ab), both at 1",
    }  # fmt: skip
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    folders = folder_paths.get_folder_paths("loras")
    try:
        assert lora_info("own dogs/a#1.safetensors") == expected
        (tmp_path / "own dogs" / "a#1.preview.png").write_bytes(b"any")
        (tmp_path / "own dogs" / "a#10.png").write_bytes(b"of another")
        address = lora_info("own dogs/a#1.safetensors")["picture"]
        at = folders.index(str(tmp_path))
        assert address == f"/experiment/models/preview/loras/{at}/own%20dogs/a%231.safetensors"
        with pytest.raises(CraftError, match="no LoRA file"):
            lora_info("absent.safetensors")
    finally:
        folders.remove(str(tmp_path))
        folder_paths.filename_list_cache.clear()
