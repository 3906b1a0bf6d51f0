"""Learned merges in the real host: the file is what was learned, and loads as any LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.lora
import comfy.model_management
import comfy.utils
import folder_paths
import nodes as host_nodes
import pytest
import safetensors
import safetensors.torch
import small_world_models as small
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.model.expert_encoder import lora_hash
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile, read_branch_file
from craft_lora_pack.comfy_adapter.train.denoiser import open_denoiser
from craft_lora_pack.comfy_adapter.train.merge import Merge, dominated
from craft_lora_pack.comfy_adapter.train.run import save_place
from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.lora import write_lora
from craft_lora_pack.craft_core.training import (
    LEARNED,
    Dataset,
    Example,
    MergePart,
    Merging,
    Prompt,
)
from craft_lora_pack.craft_core.training.merges.duo_lora import masked_edits
from craft_lora_pack.craft_core.types import ROLES, Branch
from craft_lora_pack.nodes.learn_merge import LearnMerge
from trainings import train_merge

CONTENT, STYLE = "a_content.safetensors", "a_style.safetensors"
FILES = (BranchFile(CONTENT, "content", 0.9), BranchFile(STYLE, "style", 0.6))
PROMPT = "a <c>sks animal</c> in <s>zwx style</s>"
METHODS = ("zip_lora", "duo_lora")
KEPT = {"save_as": "fp32"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The small world, and its two LoRAs cut down to every fifth layer."""
    root = tmp_path_factory.mktemp("loras")
    with torch.inference_mode():
        loaded = small.load()
    for name, whole in ((CONTENT, small.CONTENT), (STYLE, small.STYLE)):
        layers = read_branch_file(whole, loaded.model).layers
        write_lora(root / name, {path: layers[path] for path in list(layers)[::5]})
    folder_paths.add_model_folder_path("loras", str(root))
    yield loaded
    folder_paths.folder_names_and_paths["loras"][0].remove(str(root))
    folder_paths.filename_list_cache.clear()


@pytest.fixture
def folder(tmp_path):
    """A further folder for LoRAs, gone after the test."""
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


def image(seed=0, count=1, size=32):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


def contents(images=None, captions=("a <c>sks animal</c> in flat style",)):
    return Captioned([image(1)] if images is None else images, list(captions))


def styles(images=None, captions=("a house in <s>zwx style</s>",)):
    return Captioned([image(2)] if images is None else images, list(captions))


def learn(
    world, name, method="duo_lora", files=FILES, content=None, style=None, fused=PROMPT,
    how=None, watch=lambda training: None, allow_unmatched=False, **knobs,
):  # fmt: skip
    given = LEARNED[method].knobs({"steps": 2, "learning_rate": 0.05, **KEPT, **knobs})
    pictures = {"content": content or contents(), "style": style or styles()}
    merge = Merge(files, pictures, fused, LEARNED[method], given, allow_unmatched)
    how = how or How(name, precision="fp32", checkpointing=False)
    with torch.inference_mode():  # as the host runs its nodes
        return train_merge(ModelParts(world.model, world.clip, world.vae), merge, how, watch)


def same(one, other):
    first, second = map(safetensors.torch.load_file, (one.path, other.path))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def edits_of(recipe):
    if hasattr(recipe, "pairs"):
        (pair,) = recipe.pairs
        return masked_edits([pair.content, pair.style])
    return {path: recipe._edit(path) for path in {p for own in recipe.masks for p in own}}


def denoised(model, world, edits=None):
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode(False), open_denoiser(model, None, "fp32", False) as denoiser:
        condition = [[t.detach().clone(), dict(rest)] for t, rest in world.encode("a sks animal")]
        condition = [[t, {k: v.clone() if torch.is_tensor(v) else v for k, v in rest.items()}]
                     for t, rest in condition]  # fmt: skip
        sigma = denoiser.sigmas[len(denoiser.sigmas) // 2].expand(1).to(denoiser.device)
        with torch.no_grad(), denoiser.edited(edits or {}):
            return denoiser.denoise(x.to(denoiser.device), sigma, [condition]).cpu()


@pytest.mark.parametrize("method", METHODS)
def test_the_file_in_the_hosts_own_loader_is_what_ran(world, method):
    seen = []
    trained = learn(world, f"merge/{method}", method, watch=seen.append, steps=3)
    recipe = seen[-1].recipe
    state = comfy.utils.load_torch_file(str(trained.path), safe_load=True)
    patches = comfy.lora.load_lora(state, comfy.lora.model_lora_keys_unet(world.model.model, {}))
    assert 3 * len(patches) == len(state) > 0
    loader = host_nodes.LoraLoader()
    patched = loader.load_lora(world.model, world.clip, trained.name, 1.0, 0.0)[0]
    ran, loaded = denoised(world.model, world, edits_of(recipe)), denoised(patched, world)
    plain = world.model
    for file in FILES:  # the direct merge
        plain = loader.load_lora(plain, world.clip, file.name, file.strength, 0.0)[0]
    torch.testing.assert_close(loaded, ran, rtol=1e-4, atol=1e-4)
    assert (loaded - denoised(plain, world)).abs().max() > 1e-3
    assert (loaded - denoised(world.model, world)).abs().max() > 1e-2


def test_the_file_names_its_loras_and_settings(world):
    trained = learn(world, "merge/recorded")
    with safetensors.safe_open(trained.path, framework="pt") as file:
        metadata = file.metadata()
    recorded = json.loads(metadata["training"])
    assert recorded["recipe"] == "duo_lora" and recorded["strengths"] == "0.9 0.6"
    assert recorded["sources"] == " ".join(lora_hash(file.name) for file in FILES)
    assert recorded["fused_prompts"] == "a sks animal in zwx style"  # without markers
    assert "duo_lora" in trained.report and "Saved" in trained.report
    assert metadata["craft_role"] == "content"
    for setting in ("learning_rate 0.05", "seed 0", "optimiser adamw", "Precision: fp32, as set"):
        assert setting in trained.report
    hashes = [lora_hash(file.name) for file in FILES]
    assert not any(whole in trained.report for whole in hashes)
    assert "sources " + " ".join(whole[:12] for whole in hashes) in trained.report


@pytest.mark.parametrize("method", METHODS)
def test_checkpointing_changes_nothing(world, method):
    files = [
        learn(world, f"merge/checkpointed_{method}", method,
              how=How(f"merge/checkpointed_{method}", precision="fp32", checkpointing=on))
        for on in (False, True)
    ]  # fmt: skip
    plain, checkpointed = (safetensors.torch.load_file(one.path) for one in files)
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_leaves_a_loadable_result_that_goes_on_to_the_same_bytes(world, method):
    def stop(training):
        if training.step == 2:
            raise comfy.model_management.InterruptProcessingException

    name = f"merge/stopped_{method}"
    whole = learn(world, name + "_whole", method, steps=4)
    place = save_place(name, "loras", method)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn(world, name, method, watch=stop, steps=4)
    with safetensors.safe_open(place.path, framework="pt") as file:
        assert file.metadata()["steps_done"] == "2"
    assert read_branch_file(place.name, world.model).layers
    how = How(name, resume=True, precision="fp32", checkpointing=False)
    resumed = learn(world, name, method, how=how, steps=4)
    assert same(resumed, whole) and "2 of them resumed" in resumed.report


def test_pictures_are_dealt_to_the_content_loras_in_order(world, folder):
    second = "second.safetensors"
    write_lora(folder / second, {p: f[:1] for p, f in layers_of(CONTENT, world).items()})
    files = (FILES[0], BranchFile(second, "content", 1.0), FILES[1])
    captions = ["a cat", "a sks animal", "a house", "a tree"]
    images = [image(i) for i in range(4)]
    seen = []
    learn(world, "merge/two", files=files, content=Captioned(images, captions), steps=1,
          fused="a cat in zwx style\na house in zwx style", watch=seen.append)  # fmt: skip
    merging = seen[0].recipe.merging
    dealt = [[one.caption for one in part.pictures.examples] for part in merging.parts]
    assert dealt == [captions[:2], captions[2:], ["a house in zwx style"]]
    assert [prompt.text for prompt in merging.fused] == [
        "a cat in zwx style", "a house in zwx style",
    ]  # fmt: skip
    with pytest.raises(CraftError, match="3 content images for 2 content LoRAs"):
        learn(world, "merge/three", files=files, content=Captioned(images[:3], ["a cat"]))
    with pytest.raises(CraftError, match="3 lines for 2 content LoRAs"):
        learn(world, "merge/lines", files=files, content=Captioned(images, ["a cat"]),
              fused="a\nb\nc")  # fmt: skip


def layers_of(name, world):
    return read_branch_file(name, world.model).layers


def test_text_encoder_parts_are_heard_and_saved(world, folder):
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", CONTENT))
    names = comfy.lora.model_lora_keys_clip(world.clip.cond_stage_model, {})
    stem = next(n for n in names if n.startswith("lora_te") and n.endswith("q_proj"))
    width = comfy.utils.get_attr(world.clip.cond_stage_model, names[stem]).shape[0]
    generator = torch.Generator().manual_seed(0)
    lora[f"{stem}.lora_down.weight"] = torch.randn(2, width, generator=generator)
    lora[f"{stem}.lora_up.weight"] = torch.randn(width, 2, generator=generator)
    safetensors.torch.save_file(lora, folder / "with_text.safetensors")
    spoken = (BranchFile("with_text.safetensors", "content", 0.9), FILES[1])
    losses = [
        learn(world, "merge/text", "zip_lora", files=files, steps=1) for files in (spoken, FILES)
    ]
    assert losses[0].losses != losses[1].losses
    saved = read_branch_file(losses[0].name, world.model).text_encoder
    names = comfy.lora.model_lora_keys_clip(world.clip.cond_stage_model, {})
    ((_, patch),) = comfy.lora.load_lora(dict(saved), names).items()
    up, down, alpha = patch.weights[:3]
    found = (alpha / down.shape[0] if alpha is not None else 1.0) * up @ down
    wanted = 0.9 * lora[f"{stem}.lora_up.weight"] @ lora[f"{stem}.lora_down.weight"]
    torch.testing.assert_close(found, wanted)
    assert not read_branch_file(losses[1].name, world.model).text_encoder


def spoken(folder, **parts):
    """FILES, the content with these tensors of its text encoder's first layer."""
    state = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", CONTENT))
    stem = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    state |= {f"{stem}.{name}": tensor for name, tensor in parts.items()}
    safetensors.torch.save_file(state, folder / "spoken.safetensors")
    return (BranchFile("spoken.safetensors", "content", 1.0), FILES[1])


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"oft_blocks": torch.ones(256, 2, 2)}, "text-encoder update of OFT"),
        ({"lora_down.weight": torch.full((1, 128), 1e6), "lora_up.weight": torch.ones(512, 1)},
         "Save as bf16 or fp32"),
    ],
)  # fmt: skip
def test_a_text_encoder_part_that_cannot_be_saved_is_told_before_anything_else(
    world, folder, parts, message
):
    files = spoken(folder, **parts)
    with pytest.raises(CraftError, match=message):
        learn(world, "merge/spoken", files=files, content=contents(images=[]), save_as="fp16")


def test_a_text_encoder_part_that_needs_the_weight_is_left_out_where_allowed(world, folder):
    files = spoken(folder, oft_blocks=torch.ones(256, 2, 2))
    trained = learn(world, "merge/silent", "zip_lora", files=files, steps=1, allow_unmatched=True)
    assert "text-encoder update of OFT" in trained.report
    assert not read_branch_file(trained.name, world.model).text_encoder


def test_text_encoder_keys_that_match_nothing_are_an_error_or_left_out(world, folder):
    state = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", CONTENT))
    stem = "lora_te2_text_model_encoder_layers_31_mlp_fc1"
    state |= {f"{stem}.lora_down.weight": torch.ones(1, 8)}
    state |= {f"{stem}.lora_up.weight": torch.ones(8, 1)}
    safetensors.torch.save_file(state, folder / "foreign.safetensors")
    files = (BranchFile("foreign.safetensors", "content", 1.0), FILES[1])
    with pytest.raises(CraftError, match=rf"foreign.safetensors: 2 keys \({stem}"):
        learn(world, "merge/foreign", files=files)
    trained = learn(world, "merge/foreign", files=files, allow_unmatched=True, steps=1)
    assert f"Matches nothing: foreign.safetensors: 2 keys ({stem}" in trained.report
    assert not read_branch_file(trained.name, world.model).text_encoder


def test_the_model_and_the_files_stay_as_they_are(world):
    weights = {k: v.clone() for k, v in world.model.model.state_dict().items()}
    path = Path(folder_paths.get_full_path("loras", CONTENT))
    before = path.read_bytes()
    learn(world, "merge/untouched", "zip_lora", steps=1)
    after = world.model.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert path.read_bytes() == before


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_not_finite_is_an_error_and_saves_nothing(world, method):
    files = tuple(BranchFile(file.name, file.role, 1e30) for file in FILES)
    with pytest.raises(CraftError, match="not finite"):
        learn(world, f"merge/broken_{method}", method, files=files)
    assert not save_place(f"merge/broken_{method}", "loras", method).state.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": ()}, "given 0 LoRAs"),
        ({"files": FILES[:1]}, "given 1 LoRA"),
        ({"files": (FILES[0], FILES[1], FILES[1]), "style": styles([image(2, 2)])},
         "1 content and 2 style"),
        ({"fused": ""}, "without a fused prompt"),
        ({"fused": " \n", "content": contents(images=[])}, "without a fused prompt"),
        ({"method": "b4m", "content": contents(images=[])}, "a_content.safetensors is no B4M half"),
        ({"files": tuple(BranchFile(f.name, f.role, 0.0) for f in FILES),
          "content": contents(images=[])}, "All LoRAs have the strength 0"),
        ({"content": contents(images=[])}, "no content image"),
        ({"style": styles(images=[])}, "no style image"),
        ({"content": contents(captions=("a", "b"))}, "2 content captions for 1 content images"),
        ({"content": contents(captions=("",))}, "caption of content image 1 is empty"),
        ({"content": contents(images=[image(1) * float("nan")])}, "not finite"),
        ({"how": How("../out")}, "save_as"),
    ],
)  # fmt: skip
def test_mistakes_are_told(world, changes, message):
    with pytest.raises(CraftError, match=message):
        learn(world, "merge/mistake", **changes)


def test_keys_that_match_nothing_are_an_error_unless_allowed(world, folder):
    state = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", CONTENT))
    stem = "lora_unet_nowhere"
    state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"] = torch.ones(2, 1, 4)
    safetensors.torch.save_file(state, folder / "foreign.safetensors")
    files = (BranchFile("foreign.safetensors", "content", 1.0, "mid_block"), FILES[1])
    with pytest.raises(CraftError, match=r"foreign.safetensors: 1 keys \(lora_unet_nowhere\)"):
        learn(world, "merge/foreign", files=files)
    trained = learn(world, "merge/foreign", "zip_lora", files=files, allow_unmatched=True, steps=1)
    assert "Matches nothing: foreign.safetensors" in trained.report
    assert "Own layers of foreign.safetensors: not used" in trained.report


def test_the_layers_prior_is_by_resolution_and_only_for_unets(world):
    layers = model_layers(tiny.sd15())
    content, style = dominated(layers)
    assert "middle_block.1.proj_in" in content and "input_blocks.1.1.proj_in" in style
    assert not content & style
    assert dominated(model_layers(tiny.flux())) == (frozenset(), frozenset())


@pytest.mark.parametrize("method", METHODS)
def test_a_fused_layer_of_a_dit_is_merged_from_slices_and_whole(folder, method):
    """A LoRA of q and v of a fused qkv, and one that adapts all of it."""
    model, path = tiny.flux(), "double_blocks.0.img_attn.qkv"
    generator = torch.Generator().manual_seed(0)
    stem, state = "transformer.transformer_blocks.0.attn", {}
    for name in ("to_q", "to_v"):
        state[f"{stem}.{name}.lora_A.weight"] = torch.randn(2, 64, generator=generator) / 8
        state[f"{stem}.{name}.lora_B.weight"] = torch.randn(64, 2, generator=generator)
    safetensors.torch.save_file(state, folder / "slices.safetensors")
    whole = tiny.random_lora({path: model_layers(model)[path]}, 3, 1)
    safetensors.torch.save_file(whole, folder / "whole.safetensors")
    files = [read_branch_file(f"{name}.safetensors", model) for name in ("slices", "whole")]
    assert [one.rows for one in files[0].layers[path]] == [(0, 64), (128, 64)]
    with torch.inference_mode(False), open_denoiser(model, None, "fp32") as denoiser:
        example = Example(torch.randn(16, 8, 8, generator=generator), tiny.conditioning(1))
        parts = tuple(
            MergePart(Branch(role, role, file.layers), Dataset((example,)))
            for role, file in zip(ROLES, files, strict=True)
        )
        fused = (Prompt("fused", tiny.conditioning(2)),)
        knobs = LEARNED[method].knobs({"steps": 2, "learning_rate": 1e-7, **KEPT})
        training = LEARNED[method].function(denoiser, Merging(parts, fused), **knobs)
        training.run()
        training.write(folder / "merged.safetensors")
    (merged,) = read_branch_file("merged.safetensors", model).layers[path]
    direct = files[1].layers[path][0].delta()
    for one in files[0].layers[path]:
        start, length = one.rows
        direct[start : start + length] += one.delta()
    assert merged.rank == 2 + 2 + 3 and merged.rows is None
    torch.testing.assert_close(merged.delta(), direct, rtol=1e-4, atol=1e-4)


def execute(world, **changes):
    """The node, as the host calls it: lists everywhere."""
    method = changes.pop("method", "zip_lora")
    knobs = LEARNED[method].knobs({"steps": 2})
    settings = {
        "branches": FILES, "fused_prompt": PROMPT, "save_name": "merge/learned",
        "precision": "auto", "gradient_checkpointing": True, "resume": False,
        "allow_unmatched": False, **changes,
    }  # fmt: skip
    lists = {name: [value] for name, value in settings.items()}
    menu = {"method": [method], **{name: [value] for name, value in knobs.items()}}
    with torch.inference_mode():
        return LearnMerge.execute(
            [world.model], [world.clip], [world.vae], [image(1)], [image(2)],
            ["a sks animal"], ["a house in zwx style"], method=menu, **lists,
        ).result  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_node_gives_the_merged_file_in_every_form(world, method):
    branches, state, losses, report = execute(world, method=method)
    (merged,) = branches
    assert merged.role == "content" and merged.strength == 1.0
    assert f"Saved {Path(merged.name).name}" in report and len(losses["loss"]) == 2
    stored = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", merged.name))
    assert state.keys() == stored.keys()


def test_the_node_answers_static_mistakes_before_it_is_queued():
    valid = {"content_captions": ["a dog"], "style_captions": ["x"], "method": {"method": "b4m"}}
    assert LearnMerge.validate_inputs(["craft/x"], **valid) is True
    assert "save_as" in LearnMerge.validate_inputs(["../x"], **valid)
    assert "caption of style image 1" in LearnMerge.validate_inputs(
        ["x"], **{**valid, "style_captions": [""]}
    )
    assert "method" in LearnMerge.validate_inputs(["x"], **{**valid, "method": None})
