"""A content and a style LoRA of one training: one file for the host, two branches to route."""

from __future__ import annotations

import comfy.lora
import comfy.utils
import folder_paths
import nodes as host_nodes
import pytest
import torch
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route
from craft_lora_pack.craft_core.training import TRAINING
from craft_lora_pack.nodes.training import TRAINING_NODES
from small_world_models import load

KNOBS = {"rank": 2, "steps": 4, "batch_size": 2, "learning_rate": 0.05, "warmup": 0}
PATTERNS = "content: middle_block\nstyle: output_blocks.8"
BEFORE = BranchFile("other.safetensors", "content", 1.0)
SETS = {
    "b-lora": {"layer_sets": ["b-lora"]},
    "duolora-prior": {"layer_sets": ["duolora-prior"]},
    "custom": {"layer_sets": ["custom"], "patterns": [PATTERNS]},
}


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return load()


def image(seed):
    return torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed))


def learn(world, name, layer_sets, **more):
    knobs = {p.name: p.default for p in TRAINING["joint"].parameters} | KNOBS
    settings = {
        "save_name": name, "precision": "fp32", "gradient_checkpointing": False, "resume": False,
        **knobs,
    }  # fmt: skip
    with torch.inference_mode():
        return TRAINING_NODES["joint"].execute(
            [world.model], [world.clip], [world.vae], [image(0)], [image(1)],
            ["a <c>sks animal</c>"], ["a house in <s>zwx style</s>"], layer_sets=layer_sets,
            **{key: [value] for key, value in settings.items()}, **more,
        ).result  # fmt: skip


def sample(world, model):
    latent = host_nodes.EmptyLatentImage().generate(64, 64)[0]
    return host_nodes.KSampler().sample(
        model, 3, 3, 4.0, "euler", "normal",
        world.encode("a cat in flat style"), world.encode(""), latent,
    )[0]["samples"].clone()  # fmt: skip


@pytest.mark.parametrize("chosen", SETS)
def test_the_two_branches_are_the_one_file_as_the_host_loads_it(world, chosen):
    branches, state, losses, report = learn(world, f"joint/{chosen}", SETS[chosen],
                                            branches=[(BEFORE,)])  # fmt: skip
    first, *both = branches
    assert first == BEFORE and [one.role for one in both] == ["content", "style"]
    assert len({one.name for one in both}) == 1 and len(losses["loss"]) == 4
    assert "recipe joint" in report and "content" in report and "style" in report

    path = folder_paths.get_full_path("loras", both[0].name)
    assert state.keys() == comfy.utils.load_torch_file(path, safe_load=True).keys()
    names = comfy.lora.model_lora_keys_unet(world.model.model, {})
    assert 3 * len(comfy.lora.load_lora(state, names)) == len(state) > 0

    request = RouterRequest("a cat", tuple(both), "all", {"method": "direct"})
    with torch.inference_mode():
        plain = sample(world, world.model)
        routed = sample(world, route(world.model, world.clip, request).model)
        loader = host_nodes.LoraLoader()
        loaded = sample(world, loader.load_lora(world.model, world.clip, both[0].name, 1.0, 0.0)[0])
    torch.testing.assert_close(routed, loaded, rtol=1e-3, atol=5e-4)
    assert (routed - plain).abs().max() > 1e-3
