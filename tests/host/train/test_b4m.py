"""B4M in the real host: two halves from the node, their files in the host, and the two as one."""

from __future__ import annotations

import comfy.lora
import comfy.utils
import folder_paths
import nodes as host_nodes
import pytest
import torch
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.train.merge import Merge
from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.training import LEARNED, TRAINING
from craft_lora_pack.nodes.learn_merge import LearnMerge
from craft_lora_pack.nodes.training import TRAINING_NODES
from safetensors.torch import load_file
from small_world_models import load
from trainings import train_half, train_merge

HALF = {"rank": 4, "steps": 6, "batch_size": 2, "learning_rate": 0.02, "warmup": 0}
WORDS = {"content": "a <c>sks animal</c> in flat style", "style": "a house in <s>zwx style</s>"}


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return load()


def image(seed=0):
    return torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed))


def learn(world, role, name, how=None, **knobs):
    other = "style" if role == "content" else "content"
    with torch.inference_mode():
        return train_half(
            ModelParts(world.model, world.clip, world.vae), Captioned([image()], [WORDS[role]]),
            Captioned([image(1), image(2)], [WORDS[other], "a tree"]), role, "all",
            {**HALF, **knobs}, how or How(name), lambda training: None,
        )  # fmt: skip


@pytest.fixture(scope="module")
def pair(world):
    return {role: learn(world, role, f"b4m/{role}") for role in ("content", "style")}


def made(world, files, name, **knobs):
    """The learned merge of saved halves, by {role: name}."""
    method = LEARNED["b4m"]
    chosen = [BranchFile(saved, role, 1.0) for role, saved in files.items()]
    pictures = {role: Captioned([image()], [words]) for role, words in WORDS.items()}
    merge = Merge(chosen, pictures, "", method, method.knobs(knobs))
    with torch.inference_mode():
        source = ModelParts(world.model, world.clip, world.vae)
        return train_merge(source, merge, How(name), lambda training: None)


def sample(world, model):
    latent = host_nodes.EmptyLatentImage().generate(64, 64)[0]
    return host_nodes.KSampler().sample(
        model, 3, 3, 4.0, "euler", "normal",
        world.encode("a cat in flat style"), world.encode(""), latent,
    )[0]["samples"].clone()  # fmt: skip


def by_host(world, name):
    return host_nodes.LoraLoader().load_lora(world.model, world.clip, name, 1.0, 0.0)[0]


def by_router(world, name):
    request = RouterRequest(
        "a cat", (BranchFile(name, "content", 1.0),), "all", {"method": "direct"}
    )
    return route(world.model, world.clip, request).model


def names_of(files):
    return {role: trained.name for role, trained in files.items()}


def test_the_host_loads_every_key_of_both_halves_and_of_their_fusion(world, pair):
    fused = made(world, names_of(pair), "b4m/fused", steps=2)
    names = comfy.lora.model_lora_keys_unet(world.model.model, {})
    for path in (pair["content"].path, pair["style"].path, fused.path):
        state = comfy.utils.load_torch_file(str(path), safe_load=True)
        patches = comfy.lora.load_lora(state, names)
        assert 3 * len(patches) == len(state) > 0
        assert not any("conv" in key or "ff" in key for key in state)


def test_halves_and_fusion_change_the_picture_alike_in_the_host_and_the_router(world, pair):
    fused = made(world, names_of(pair), "b4m/fused", steps=2, learning_rate=0.02)
    with torch.inference_mode():
        plain = sample(world, world.model)
        for name in (*names_of(pair).values(), fused.name):
            loaded, routed = (
                sample(world, by_host(world, name)),
                sample(world, by_router(world, name)),
            )
            torch.testing.assert_close(loaded, routed, rtol=1e-3, atol=5e-4)
            assert (loaded - plain).abs().max() > 1e-3


def test_without_a_step_the_fusion_is_contents_up_with_styles_down(world, pair):
    fused = load_file(made(world, names_of(pair), "b4m/plain", steps=0).path)
    content, style = (load_file(pair[role].path) for role in ("content", "style"))
    assert fused.keys() == content.keys() == style.keys()
    for key, value in fused.items():
        source = style if "lora_down" in key else content
        assert torch.equal(value, source[key])


def test_both_nodes_in_a_row(world, pair):
    """The halves' branches go into Learn LoRA Merge as they come out."""
    halves = tuple(BranchFile(trained.name, role, 1.0) for role, trained in pair.items())
    menu = {"method": ["b4m"], **{p.name: [p.default] for p in LEARNED["b4m"].parameters}}
    with torch.inference_mode():
        branches, state, losses, report = LearnMerge.execute(
            [world.model], [world.clip], [world.vae], [image()], [image()],
            [WORDS["content"]], [WORDS["style"]], branches=[halves], fused_prompt=[""],
            method={**menu, "steps": [0]}, save_name=["b4m/nodes"], precision=["fp32"],
            gradient_checkpointing=[False], resume=[False],
        ).result  # fmt: skip
    assert branches == (BranchFile("b4m/nodes_00001_.safetensors", "content", 1.0),)
    assert losses == {"loss": []} and "0 steps" in report and len(state) > 0


def test_the_fusion_is_tuned_from_there_on(world, pair):
    plain, tuned = (
        load_file(made(world, names_of(pair), f"b4m/{steps}", steps=steps).path)
        for steps in (0, 2)
    )  # fmt: skip
    assert any(not torch.equal(plain[key], tuned[key]) for key in plain)
    for key in plain:
        if "lora_up" in key:
            frozen = len(plain[key]) // 2
            assert torch.equal(plain[key][:frozen], tuned[key][:frozen])


def test_halves_of_two_bases_are_refused(world, pair):
    other = learn(world, "style", "b4m/other", basis_seed=1)
    with pytest.raises(CraftError, match="was learned on the basis"):
        made(world, {"content": pair["content"].name, "style": other.name}, "b4m/refused")


def test_halves_of_one_name_resume_each_their_own(world):
    for role in ("content", "style"):
        learn(world, role, "b4m/shared", steps=1)
    for role in ("content", "style"):
        done = learn(world, role, "b4m/shared", How("b4m/shared", resume=True), steps=2)
        assert "1 of them resumed" in done.report


def test_the_node_returns_what_it_saved(world):
    knobs = {p.name: [p.default] for p in TRAINING["b4m_half"].parameters}
    settings = {
        "role": ["style"], "layer_sets": {"layer_sets": ["all"]}, "save_name": ["b4m/node"],
        "precision": ["fp32"], "gradient_checkpointing": [False], "resume": [False],
    }  # fmt: skip
    before = BranchFile("other.safetensors", "content", 1.0)
    with torch.inference_mode():
        branches, state, losses, report = TRAINING_NODES["b4m_half"].execute(
            [world.model], [world.clip], [world.vae], [image()], [WORDS["style"]],
            partner_images=[image(1)], partner_captions=[WORDS["content"]], branches=[(before,)],
            **settings, **{**knobs, **{name: [value] for name, value in HALF.items()}},
        ).result  # fmt: skip
    assert branches == (before, BranchFile("b4m/node_00001_.safetensors", "style", 1.0))
    assert state.keys() == load_file(folder_paths.get_full_path("loras", branches[1].name)).keys()
    assert len(losses["loss"]) == 6 and "node_00001_" in report and "basis " in report
    assert "own" in report and "partners" in report
