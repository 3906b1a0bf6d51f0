"""The training workflow in a real server, and its files in a fresh one."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from craft_lora_pack.client.errors import RemoteError
from live_server import LiveServer
from safetensors import safe_open
from workflow_prompts import FOLDER, base_folder, ids, in_few_steps, inputs, refusal

from launcher.run.hosts import Host
from launcher.run.server import Server

WORKFLOW = FOLDER / "training_small_world.json"
SAVED = {
    "CRAFTTrainBasis": ("craft_bases", "basis"),
    "CRAFTTrainLoRA": ("loras", "lora"),
    "CRAFTTrainEncoder": ("craft_encoders", "encoder"),
}


@pytest.fixture(scope="module")
def trained(live_server):
    """(the prompt that trained, its pictures, its saved files by node)."""
    prompt = in_few_steps(live_server.prompt_of(WORKFLOW))
    for kind in SAVED:
        for node in ids(prompt, kind):
            prompt[node]["inputs"]["save_name"] += "_test"
    result = live_server.run(prompt)
    files = {
        node: newest(live_server, prompt[node]) for kind in SAVED for node in ids(prompt, kind)
    }
    return prompt, live_server.images(result), files


def newest(live_server, node: dict[str, Any]) -> Path:
    folder = base_folder(live_server) / "output" / SAVED[node["class_type"]][0]
    name = Path(node["inputs"]["save_name"])
    return max((folder / name.parent).glob(f"{name.name}_*.safetensors"))


def from_files(prompt: dict[str, Any], files: dict[str, Path]) -> dict[str, Any]:
    """The same graph with every training replaced by the loader of what it saved."""
    replaced = {}
    for node, entry in prompt.items():
        kind, given = entry["class_type"], entry["inputs"]
        if kind == "LossGraphNode":
            continue
        if kind not in SAVED:
            replaced[node] = entry
            continue
        name = f"craft/{files[node].name}"
        if kind == "CRAFTTrainBasis":
            loader = {"class_type": "CRAFTLoadRankLimitedUNet", "inputs": {
                "source": "model input", "source.model": given["model"], "basis": name,
                "which": "both", "strength": 1.0,
            }}  # fmt: skip
        elif kind == "CRAFTTrainLoRA":
            chain = {"branches": given["branches"]} if "branches" in given else {}
            loader = {"class_type": "CRAFTLoadLoRABranch", "inputs": {
                "lora": name, "role": given["role"], "strength": 1.0, **chain,
            }}  # fmt: skip
        else:
            loader = {"class_type": "CRAFTLoadExpertEncoder", "inputs": {"encoder": name}}
        replaced[node] = loader
    return replaced


def test_the_saved_files_give_the_same_pictures_in_a_fresh_server(live_server, trained):
    prompt, pictures, files = trained
    host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), own=False)
    with Server(host, base_folder(live_server), cpu=True) as server:
        fresh = LiveServer(server)
        again = fresh.images(fresh.run(from_files(prompt, files)))
    assert len(pictures) == len(again) > 0
    assert all((one == other).all() for one, other in zip(pictures, again, strict=True))


def test_every_file_tells_how_it_was_trained(trained):
    prompt, _, files = trained
    for node, path in files.items():
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        assert metadata["steps_done"] == str(prompt[node]["inputs"]["steps"])
        assert metadata["loss_curve"].count(",") == prompt[node]["inputs"]["steps"] - 1


def test_the_two_loras_share_no_layer(trained):
    prompt, _, files = trained
    stems = []
    for node in ids(prompt, "CRAFTTrainLoRA"):
        with safe_open(files[node], framework="pt") as file:
            stems.append({key.split(".")[0] for key in file.keys()})  # noqa: SIM118
    assert stems[0] and stems[1] and not stems[0] & stems[1]


def test_each_is_trained_from_one_picture_a_side(trained):
    prompt, _, _ = trained
    given = inputs(prompt, "CRAFTTrainBasis")
    pictures = {tuple(given[side]) for side in ("content_images", "style_images")}
    taught = {tuple(prompt[n]["inputs"]["images"]) for n in ids(prompt, "CRAFTTrainLoRA")}
    assert taught == pictures and len(pictures) == 2
    assert all(prompt[node]["class_type"] == "LoadImage" for node, _ in pictures)


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("CRAFTTrainLoRA", {"captions": " "}, "caption of training image 1 is empty"),
        ("CRAFTTrainLoRA", {"save_name": "../../outside"}, "save_as"),
        ("CRAFTTrainLoRA", {"layer_sets": "crfat"}, "layer_sets"),
        ("CRAFTTrainEncoder", {"captions": "<c></c> a cat"}, "marks no words"),
        ("CRAFTTrainEncoder", {"save_name": ""}, "save_as"),
        ("CRAFTTrainBasis", {"style_captions": ""}, "caption of style image 1 is empty"),
    ],
)
def test_what_can_be_seen_at_once_is_answered_before_queueing(
    live_server, trained, kind, change, sentence
):
    prompt = copy.deepcopy(trained[0])
    for plot in ids(
        prompt, "LossGraphNode"
    ):  # the host would still queue the nodes without an error
        del prompt[plot]
    prompt[ids(prompt, kind)[0]]["inputs"].update(change)
    assert sentence in refusal(live_server, prompt)


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [("CRAFTTrainBasis", {"content_captions": "one\ntwo\nthree"}, "3 content captions for 1")],
)
def test_bad_data_is_a_clear_error_in_the_page(live_server, trained, kind, change, sentence):

    prompt = {
        node: {**entry, "inputs": dict(entry["inputs"])} for node, entry in trained[0].items()
    }
    prompt[ids(prompt, kind)[0]]["inputs"].update(change)
    with pytest.raises(RemoteError, match=sentence):
        live_server.run(prompt)
