"""The workflow of Wan 2.2's two experts runs in this process on tiny experts, text encoder and VAE:
its own are too large for any test, and the host builds its text encoder in one size only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import comfy.ldm.wan.vae
import comfy.sd
import execution
import folder_paths
import nodes
import numpy as np
import pair_parts
import pytest
import safetensors.torch
import tiny
from comfy_extras import (
    nodes_custom_sampler,
    nodes_hunyuan,
    nodes_model_advanced,
    nodes_preview_any,
    nodes_video,
)
from craft_lora_pack.client.workflow import read_workflow, to_prompt
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.nodes import NODES
from tiny_families import TINY
from workflow_prompts import FOLDER, ids, in_few_steps, inputs

WORKFLOW = FOLDER / "wan22_two_experts.json"
WAN, FRAMES, SIDE = "WAN21_T2V", 5, 64
HOST = [
    nodes_custom_sampler.BasicScheduler, nodes_custom_sampler.SplitSigmas,
    nodes_custom_sampler.KSamplerSelect, nodes_custom_sampler.RandomNoise,
    nodes_custom_sampler.DisableNoise, nodes_custom_sampler.SamplerCustomAdvanced,
    nodes_hunyuan.EmptyHunyuanLatentVideo, nodes_preview_any.PreviewAny,
    nodes_model_advanced.ModelSamplingSD3, nodes_video.CreateVideo, nodes_video.SaveVideo,
]  # fmt: skip
FILES = {
    f"{second}{role}_lora": f"wan_{role}_{noise}.safetensors"
    for second, noise in (("", "high"), ("second_", "low"))
    for role in ("content", "style")
}


def expert(name: str):
    """A tiny expert for either file of the workflow; the two have other weights."""
    model = TINY[WAN].make(WAN)
    if "low" in name:
        for weight in model.model.diffusion_model.parameters():
            weight.data.mul_(0.9)
    return model


def tiny_vae():
    """The host's VAE of Wan, 8 channels wide."""
    made = comfy.ldm.wan.vae.WanVAE(
        dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    return comfy.sd.VAE(sd=pair_parts.random_weights(made.state_dict(), seed=5))


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """The LoRA files, in a folder of the host."""
    folder, layers = tmp_path_factory.mktemp("loras"), model_layers(TINY[WAN].make(WAN))
    for seed, name in enumerate(FILES.values()):
        safetensors.torch.save_file(tiny.random_lora(layers, 2, seed=seed), folder / name)
    folder_paths.add_model_folder_path("loras", str(folder))
    yield
    folder_paths.folder_names_and_paths["loras"][0].remove(str(folder))
    folder_paths.filename_list_cache.clear()


@pytest.fixture
def known(monkeypatch) -> dict[str, Any]:
    """The workflow's nodes beside those of the host's `nodes`, by their ids."""
    found = {}
    for kind in [*HOST, *NODES]:
        schema = getattr(kind, "GET_SCHEMA", None)
        found[schema().node_id if schema else kind.__name__] = kind
    for name, kind in found.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, kind)
    return found


@pytest.fixture
def run(monkeypatch, known, loras):
    """Run a prompt here; what its nodes show."""
    monkeypatch.setattr(
        nodes.UNETLoader, "load_unet", lambda self, unet_name, weight_dtype: (expert(unet_name),)
    )
    monkeypatch.setattr(
        nodes.CLIPLoader, "load_clip", lambda self, **given: (pair_parts.tiny_clip(),)
    )
    monkeypatch.setattr(nodes.VAELoader, "load_vae", lambda self, vae_name: (tiny_vae(),))

    def follow(prompt: dict[str, Any]) -> dict[str, Any]:
        server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *sent: None)
        limits = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        executor = execution.PromptExecutor(server, cache_args=limits)
        ends = [*ids(prompt, "SaveVideo"), *ids(prompt, "PreviewAny")]
        executor.execute(prompt, "wan", execute_outputs=ends)
        errors = [sent for event, sent in executor.status_messages if "error" in event]
        assert executor.success, errors
        return executor.history_result["outputs"]

    return follow


@pytest.fixture
def prompt(known) -> dict[str, Any]:
    """The workflow's prompt for a tiny clip of few steps."""
    workflow, info = read_workflow(WORKFLOW), {}
    for node in workflow["nodes"]:
        kind = nodes.NODE_CLASS_MAPPINGS.get(node["type"])
        if kind is not None:
            v3 = getattr(kind, "GET_NODE_INFO_V1", None)
            info[node["type"]] = v3() if v3 else {"input": kind.INPUT_TYPES()}
    prompt = in_few_steps(to_prompt(workflow, info))
    inputs(prompt, "SplitSigmas")["step"] = 1
    inputs(prompt, "EmptyHunyuanLatentVideo").update(width=SIDE, height=SIDE, length=FRAMES)
    return prompt


def frames(prompt: dict[str, Any], shown: dict[str, Any]) -> np.ndarray:
    """(frames, height, width, 3), of the saved video."""
    (saved,) = shown[ids(prompt, "SaveVideo")[0]]["images"]
    path = Path(folder_paths.get_output_directory(), saved["subfolder"], saved["filename"])
    with av.open(str(path)) as video:
        return np.stack([one.to_ndarray(format="rgb24") for one in video.decode(video=0)])


def test_one_router_serves_both_experts_to_a_video(run, prompt):
    inputs(prompt, "CRAFTRouter").update(FILES)
    shown = run(prompt)
    video = frames(prompt, shown)
    assert video.shape == (FRAMES, SIDE, SIDE, 3)
    assert len(np.unique(video.reshape(-1, 3), axis=0)) > 16
    (report,) = shown[ids(prompt, "PreviewAny")[0]]["text"]
    before, after = report.split("Second model:")
    for name, file in FILES.items():
        assert (file in after) == name.startswith("second_") == (file not in before)


def test_as_it_is_shipped_it_runs_without_loras(run, prompt):
    router = inputs(prompt, "CRAFTRouter")
    assert {router[name] for name in FILES} == {"none", "same"}
    assert frames(prompt, run(prompt)).shape == (FRAMES, SIDE, SIDE, 3)
