"""The page offers to resume a training if, and only if, what it was stopped with is there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import pytest
import torch
from craft_lora_pack.comfy_adapter.page import routes
from craft_lora_pack.comfy_adapter.page.kept_training import kept_training
from craft_lora_pack.comfy_adapter.train.run import kept_state, save_place
from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.training import LEARNED, TRAINING
from safetensors.torch import save_file
from small_world_models import load
from trainings import train_lora

DOG = {"node": "CRAFTTrainLoRA", "save_name": "kept/dog", "role": "content", "steps": "4"}
KNOBS = {"rank": 2, "steps": 4, "batch_size": 1, "learning_rate": 1e-2, "warmup": 0}
OUTSIDE = [
    {"save_name": "../kept/dog"}, {"save_name": "/kept/dog"}, {"save_name": ""},
    {"save_name": "kept/\0dog"}, {"save_name": "a" * 300}, {"role": "../../loras/content"},
    {"role": ""}, {"node": "CRAFTRouter"}, {"steps": "many"}, {"steps": "0"},
    {"steps": "9" * 5000}, {"method": "../zip_lora"}, {"effort": "none"},
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def stopped():
    """The state of a training that was stopped after three of four steps."""

    def stop(training):
        if training.step == 3:
            raise comfy.model_management.InterruptProcessingException()

    with torch.inference_mode():
        world = load()
        source = ModelParts(world.model, world.clip, world.vae)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            train_lora(
                source, Captioned([torch.rand(1, 64, 64, 3)], ["a cat"]), None, "content",
                "content: middle_block", KNOBS, How("kept/dog", precision="fp32"), stop,
            )  # fmt: skip
    state = save_place("kept/dog", "loras", "content").state
    assert state.is_file()
    return state


def test_what_a_stopped_training_left_is_found_by_the_nodes_that_would_go_on_with_it():
    kept = {"resume": "kept/dog", "step": 3, "steps": 4}
    assert kept_training(DOG) == {"kept": kept}
    assert kept_training({**DOG, "steps": "9"}) == {"kept": {**kept, "steps": 9}}
    pictures = {**DOG, "node": "CRAFTLoRAFromPictures", "effort": "quick"}
    del pictures["steps"]
    assert kept_training(pictures)["kept"]["step"] == 3


@pytest.mark.parametrize(
    "other", [{"save_name": "kept/cat"}, {"role": "style"}, {"node": "CRAFTTrainB4M"},
              {"node": "CRAFTTrainBasis"}, {"steps": "3"}, {"method": "zip_lora"}],
)  # fmt: skip
def test_nothing_is_offered_for_another_training_or_one_that_has_its_steps(other):
    assert kept_training({**DOG, **other}) == {"kept": None}


def test_nothing_is_offered_once_the_state_is_gone(stopped):
    aside = stopped.with_name("aside.safetensors")
    stopped.rename(aside)
    try:
        assert kept_training(DOG) == {"kept": None}
    finally:
        aside.rename(stopped)
    assert kept_training(DOG)["kept"]


def test_a_file_that_is_no_state_is_refused(stopped):
    stopped.with_name("other.content.safetensors").write_bytes(b"damaged")
    save_file({"a": torch.zeros(1)}, stopped.with_name("lora.content.safetensors"))
    state = {"format": "craft_training_state"}
    save_file({"a": torch.zeros(1)}, stopped.with_name("none.content.safetensors"), state)
    for name in ("other", "lora", "none"):
        with pytest.raises(CraftError):
            kept_training({**DOG, "save_name": f"kept/{name}"})


@pytest.mark.parametrize("wrong", OUTSIDE)
def test_the_route_answers_what_is_no_training_with_a_reason(wrong):
    request = SimpleNamespace(rel_url=SimpleNamespace(query={**DOG, **wrong}))
    answer = asyncio.run(routes._kept_training(request))
    told = json.loads(answer.text)
    assert answer.status == 200 and told["error"] and len(told["error"]) < 2000
    assert "kept" not in told


@pytest.mark.parametrize("name", ["kept/new/deep/dog", "%year%/kept dog"])
def test_asking_makes_nothing_and_means_the_place_that_a_training_saves_to(name):
    output = Path(folder_paths.get_output_directory())
    before = {*output.rglob("*")}
    resume, state = kept_state(name, "loras", "style")
    assert {*output.rglob("*")} == before
    place = save_place(name, "loras", "style")
    assert (state, "%" in resume) == (place.state, False)
    assert save_place(resume, "loras", "style").state == state


def test_every_training_node_can_be_asked_about():
    nodes = [
        texts.node_id
        for recipe in TRAINING
        for texts in (recipe.traits.slots.node, recipe.traits.slots.from_pictures)
        if texts
    ]
    assert len(nodes) >= 6
    for node in nodes:
        assert kept_training({**DOG, "node": node, "save_name": "kept/no"}) == {"kept": None}
    for method in LEARNED.keys():
        asked = {"node": "CRAFTLearnMerge", "save_name": "kept/no", "steps": "4"}
        assert kept_training({**asked, "method": method}) == {"kept": None}
