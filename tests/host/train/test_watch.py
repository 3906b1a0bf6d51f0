"""What the page is told while a training runs, and what an interrupt left."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import pytest
import torch
from craft_lora_pack.comfy_adapter.page.notice import NOTICE
from craft_lora_pack.comfy_adapter.page.training import watch
from craft_lora_pack.comfy_adapter.train.run import PLOT_SECONDS, Kept, PageWatch, duration
from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts
from craft_lora_pack.craft_core.training import Training
from craft_lora_pack.nodes.training import TRAINING_NODES
from safetensors import safe_open
from server import PromptServer
from small_world_models import load
from trainings import train_lora

KNOBS = {"rank": 2, "steps": 4, "batch_size": 1, "learning_rate": 1e-2, "warmup": 0}


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return load()


def learn(world, name, seen, resume=False, stop=0):
    def shown(training):
        if training.step == stop:
            raise comfy.model_management.InterruptProcessingException

    source = ModelParts(world.model, world.clip, world.vae)
    how = How(name, resume, "fp32", kept=seen.append)
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return train_lora(
            source, Captioned([image], ["a cat"]), None, "content", "content: middle_block",
            KNOBS, how, shown,
        )  # fmt: skip


def texts(monkeypatch, steps: int, seconds: float) -> list[str]:
    """What the page is told of a training whose steps take so many seconds each."""
    said: list[str] = []
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = PageWatch(steps, lambda text, **more: said.append(text))
    losses: list[float] = []
    for _ in range(steps):
        now[0] += seconds
        losses.append(0.25)
        under_way = {"step": len(losses), "losses": losses, "pace": SimpleNamespace(steps=steps)}
        shown(SimpleNamespace(**under_way))
    return said


def test_the_time_that_is_left_is_that_of_the_steps_to_come(monkeypatch):
    said = texts(monkeypatch, 400, 3.0)
    assert said[0] == "step 1 of 400, loss 0.2500"
    assert said[119] == "step 120 of 400, loss 0.2500, about 14 min left"
    assert said[390] == "step 391 of 400, loss 0.2500, about 27 s left"
    assert said[-1] == "step 400 of 400, loss 0.2500"


@pytest.mark.parametrize("seconds", [1e-4, 0.01, 0.5])
def test_however_quick_the_steps_are_the_page_is_told_now_and_then(monkeypatch, seconds):
    assert len(texts(monkeypatch, 1000, seconds)) <= 1000 * seconds / PLOT_SECONDS + 2


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.1, "1 s"), (59, "59 s"), (61, "1 min"), (3540, "59 min"), (3600, "1 h 0 min"),
     (9000, "2 h 30 min")],
)  # fmt: skip
def test_a_time_is_said_as_exactly_as_it_is_known(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize("name", ["watch/stopped", "watch/%year%_stopped"])
def test_an_interrupt_tells_the_file_it_left_and_the_name_to_go_on_under(world, name):
    seen: list[Kept] = []
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn(world, name, seen, stop=3)
    (kept,) = seen
    assert (kept.step, kept.steps) == (3, 4)
    path = Path(folder_paths.get_output_directory()) / kept.file
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["steps_done"] == "3"
    assert "%" not in kept.resume
    assert "3 of them resumed" in learn(world, kept.resume, seen, resume=True).report
    assert len(seen) == 1


def test_what_cannot_go_on_has_no_name_to_go_on_under(world, monkeypatch):
    def fails(*_given, **_more):
        raise OSError(28, "no room")

    monkeypatch.setattr(Training, "save", fails)
    seen: list[Kept] = []
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn(world, "watch/no_state", seen, stop=2)
    assert seen[0].step == 2 and seen[0].resume == ""


def test_the_page_that_queued_the_training_is_told_and_can_resume(monkeypatch):
    sent = []
    server = SimpleNamespace(client_id="page", send_sync=lambda *given: sent.append(given))
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    node = TRAINING_NODES["lora"]
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="7"))
    shown = watch(node, 400)
    shown.kept(Kept("loras/craft/dog_00001_.safetensors", 40, 400, "craft/dog"))
    shown.kept(Kept("loras/craft/dog_00001_.safetensors", 40, 400, ""))
    first, second = sent
    assert first[0] == NOTICE and first[2] == "page" and first[1]["resume"] == "craft/dog"
    assert first[1]["text"] == (
        "Stopped after step 40 of 400. Kept: output/loras/craft/dog_00001_.safetensors, which "
        "loads like a whole one. Resume goes on from there."
    )
    assert "resume" not in second[1] and "cannot be resumed" in second[1]["text"]
