"""Files for SD1.x and SD2.x have the names that kohya's own tools look for, and act as the host's
names do."""

from __future__ import annotations

import functools

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import safetensors.torch
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.train.denoiser import open_denoiser
from craft_lora_pack.comfy_adapter.use.fuse_file import FuseRequest, fuse_branches
from craft_lora_pack.craft_core.lora import kohya_stems, read_lora, write_lora
from craft_lora_pack.craft_core.training import (
    Dataset,
    Example,
    HalfPictures,
    MergePart,
    Merging,
    Pictures,
    Prompt,
    RoleLayers,
    b4m,
    b4m_half,
    duo_lora,
    joint,
    lora,
    zip_lora,
)
from craft_lora_pack.craft_core.training.recipes.joint import PicturesOfBoth
from craft_lora_pack.craft_core.types import Branch
from safetensors.torch import load_file
from tiny_families import TINY

SD1 = ["SD15", "SD20", "SD21UnclipL", "LotusD"]
OTHERS = ["SVD_img2vid", "Flux", "QwenImage", "WAN21_T2V", "ZImage"]


@pytest.fixture(scope="module")
def made():
    return functools.lru_cache(4)(lambda kind: TINY[kind].make(kind))


def of_diffusers(model) -> dict[str, set[str]]:
    """Module path -> stems of diffusers' names for it, as the host's own table has them."""
    table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    found: dict[str, set[str]] = {}
    for name, path in table.items():
        stem = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
        found.setdefault(path.removesuffix(".weight"), set()).add(stem)
    return found


@pytest.mark.parametrize("kind", SD1)
def test_layers_of_sd1_and_sd2_are_called_as_diffusers_calls_them(kind, made):
    model = made(kind)
    layers, names = model_layers(model), of_diffusers(model)
    stems = kohya_stems(layers)
    assert stems.keys() == layers.keys() and len(set(stems.values())) == len(stems)
    blocks = {path for path in layers if path.split(".")[0].endswith(("_blocks", "_block"))}
    assert blocks <= names.keys() and len(blocks) > 100
    assert [path for path in layers if path in names and stems[path] not in names[path]] == []


@pytest.mark.parametrize("kind", OTHERS)
def test_every_other_model_keeps_the_paths_of_its_layers(kind, made):
    layers = model_layers(made(kind))
    expected = {path: f"lora_unet_{path.replace('.', '_')}" for path in layers}
    assert kohya_stems(layers) == expected


def test_sdxl_keeps_the_paths_of_its_layers():
    layers = model_layers(tiny.sdxl())
    expected = {path: f"lora_unet_{path.replace('.', '_')}" for path in layers}
    assert kohya_stems(layers) == expected


def patched(model, state):
    loaded, _ = comfy.sd.load_lora_for_models(model, None, state, 0.7, 0.0)
    return loaded.patches


@pytest.mark.parametrize("kind", SD1)
def test_a_file_in_either_naming_is_the_same_lora_to_the_host_and_to_this_pack(
    kind, made, tmp_path
):
    model = made(kind)
    layers = model_layers(model)
    safetensors.torch.save_file(tiny.random_lora(layers, 2, seed=1), tmp_path / "given.safetensors")
    updates = read_lora(tmp_path / "given.safetensors", layers).layers
    files = []
    for name, stems in (("old", None), ("new", kohya_stems(layers))):
        path = tmp_path / f"{name}.safetensors"
        write_lora(path, updates, stems=stems)
        files.append(read_lora(path, layers))
        assert not files[-1].unmatched
    old, new = (file.layers for file in files)
    assert list(old) == list(new) == list(updates)
    for path, own in old.items():
        for one, other in zip(own, new[path], strict=True):
            assert torch.equal(one.down, other.down) and torch.equal(one.up, other.up)
            assert one.scale == other.scale
    states = [load_file(tmp_path / f"{name}.safetensors") for name in ("old", "new")]
    known = set(comfy.lora.model_lora_keys_unet(model.model, {}))
    blocks = {key.rsplit(".lora_")[0] for key in states[1] if ".lora_" in key and "blocks" in key}
    assert blocks <= known
    one, other = (patched(model, state) for state in states)
    assert one.keys() == other.keys() and len(one) == len(updates)
    for key, ((_, first, *_),) in one.items():
        ((_, second, *_),) = other[key]
        weights = zip(first.weights[:2], second.weights[:2], strict=True)
        assert all(torch.equal(a, b) for a, b in weights), key


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every writer's file for a tiny SD1.5."""
    folder = tmp_path_factory.mktemp("written")
    folder_paths.add_model_folder_path("loras", str(folder))
    model = tiny.sd15()
    picture = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    data = Dataset((Example(picture, tiny.conditioning(1), "a", "a"),), tiny.conditioning(2))
    with open_denoiser(model, None, "fp32") as denoiser:
        layers = denoiser.layers
        linears = frozenset(path for path in layers if "attn1" in path)
        convs = frozenset(path for path in layers if "in_layers" in path)

        def place(role, own=linears):
            return RoleLayers(role, own, "all")

        found = {
            "lora": lora(denoiser, Pictures(data), place("content"), rank=2, steps=1),
            "joint": joint(
                denoiser,
                PicturesOfBoth(data, data),
                {"content": place("content"), "style": place("style", convs)},
                rank=2,
                steps=0,
            ),
        }
        for role in ("content", "style"):
            given = HalfPictures(data)
            found[f"b4m_{role}"] = b4m_half(denoiser, given, place(role), rank=2, steps=0)
        paths = {name: folder / f"{name}.safetensors" for name in found}
        for name, training in found.items():
            training.run()
            training.write(paths[name])
        files = {role: read_lora(paths[f"b4m_{role}"], layers) for role in ("content", "style")}
        parts = [
            MergePart(Branch(role, role, file.layers), data, metadata=file.metadata)
            for role, file in files.items()
        ]
        merging = Merging(tuple(parts), (Prompt("a", tiny.conditioning(1)),))
        for name, method in (("zip_lora", zip_lora), ("duo_lora", duo_lora), ("b4m", b4m)):
            paths[name] = folder / f"{name}.safetensors"
            method(denoiser, merging, steps=0).write(paths[name])
    yield model, paths
    folder_paths.folder_names_and_paths["loras"][0].remove(str(folder))
    folder_paths.filename_list_cache.clear()


def test_every_training_writes_kohyas_names(written):
    model, paths = written
    stems = set(kohya_stems(model_layers(model)).values())
    for name, path in paths.items():
        keys = load_file(path)
        own = {key.split(".")[0] for key in keys}
        assert own and own <= stems, name
        assert not [stem for stem in own if "input_blocks" in stem or "output_blocks" in stem], name
        assert not read_lora(path, model_layers(model)).unmatched


def test_fused_files_have_kohyas_names(written, tmp_path):
    model, paths = written
    chosen = (
        BranchFile("lora.safetensors", "content", 1.0),
        BranchFile("b4m_style.safetensors", "style", 0.5),
    )
    request = FuseRequest(chosen, "all", {"method": "direct"})
    with torch.inference_mode():
        fused = fuse_branches(model, request, lambda done, total: None)
    fused.write(tmp_path / "fused.safetensors")
    own = {key.split(".")[0] for key in load_file(tmp_path / "fused.safetensors")}
    assert own and own <= set(kohya_stems(model_layers(model)).values())
    assert not [stem for stem in own if "input_blocks" in stem]
