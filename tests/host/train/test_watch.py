"""What the page is told and shown while a training runs, and what an interrupt left."""

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
from craft_lora_pack.comfy_adapter.train import sample
from craft_lora_pack.comfy_adapter.train.denoiser import HostDenoiser, open_denoiser
from craft_lora_pack.comfy_adapter.train.run import (
    PLOT_SECONDS,
    PageWatch,
    StoppedTraining,
    duration,
)
from craft_lora_pack.comfy_adapter.train.start import start_training
from craft_lora_pack.comfy_adapter.train.train import Captioned, FilledSlots, How, ModelParts
from craft_lora_pack.craft_core.training import TRAINING, Training
from craft_lora_pack.nodes.training import TRAINING_NODES
from safetensors import safe_open
from safetensors.torch import load_file
from server import PromptServer
from small_world_models import load
from tiny_families import TINY
from trainings import train_lora

SETS = "content: middle_block\nstyle: output_blocks.8"
SAMPLED = [method for method in TRAINING if method.traits.slots.samples]
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
    seen: list[StoppedTraining] = []
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
    seen: list[StoppedTraining] = []
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn(world, "watch/no_state", seen, stop=2)
    assert seen[0].step == 2 and seen[0].resume == ""


def test_what_goes_on_from_an_earlier_step_only_says_so(world, monkeypatch):
    """The state of a training that was stopped before is left; the next one finds no room."""
    seen: list[StoppedTraining] = []
    said: list[str] = []
    for stop in (1, 3):
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(world, "watch/earlier", seen, resume=stop > 1, stop=stop)

        def fails(*_given, **_more):
            raise OSError(28, "no room")

        monkeypatch.setattr(Training, "save", fails)
    assert [(one.step, one.resume, one.earlier) for one in seen] == [
        (1, "watch/earlier", False), (3, "watch/earlier", True),
    ]  # fmt: skip
    shown = PageWatch(4, lambda text, **more: said.append(text))
    shown.kept(seen[1])
    assert said[0].endswith("Resume goes on from an earlier step.")


def test_the_page_that_queued_the_training_is_told_and_can_resume(monkeypatch):
    sent = []
    server = SimpleNamespace(client_id="page", send_sync=lambda *given: sent.append(given))
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    node = TRAINING_NODES["lora"]
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="7"))
    shown = watch(node, 400)
    shown.kept(StoppedTraining("loras/craft/dog_00001_.safetensors", 40, 400, "craft/dog"))
    shown.kept(StoppedTraining("loras/craft/dog_00001_.safetensors", 40, 400, ""))
    first, second = sent
    assert first[0] == NOTICE and first[2] == "page" and first[1]["resume"] == "craft/dog"
    assert first[1]["text"] == (
        "Stopped after step 40 of 400. Kept: output/loras/craft/dog_00001_.safetensors, which "
        "loads like a whole one. Resume goes on from there."
    )
    assert "resume" not in second[1] and "cannot be resumed" in second[1]["text"]


def image(seed):
    return torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(seed))


def learn_any(world, method, name, every, show=lambda picture: None, watch=lambda t: None, **how):
    pictures = {
        slot.key: Captioned([image(0), image(1)], ["a cat\na dog"])
        for slot in method.traits.slots.slots
        if getattr(slot, "required", False)
    }
    filled = FilledSlots(pictures, (), {"role": "content", "layer_sets": SETS})
    source = ModelParts(world.model, world.clip, world.vae)
    given = How(name, precision="fp32", sample_every=every, show=show, **how)
    with torch.inference_mode():
        return start_training(source, method, filled, KNOBS, given, watch)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("method", SAMPLED, ids=lambda one: one.key)
def test_what_is_learned_is_the_same_with_and_without_pictures(world, method, checkpointing):
    seen: list[torch.Tensor] = []
    name = f"sample/{method.key}_{checkpointing}"
    plain = learn_any(world, method, name, 0, seen.append, checkpointing=checkpointing)
    assert seen == []
    shown = learn_any(world, method, name, 2, seen.append, checkpointing=checkpointing)
    assert plain.losses == shown.losses
    one, other = load_file(plain.path), load_file(shown.path)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert [tuple(picture.shape) for picture in seen] == [(64, 48, 3)] * 2
    for picture in seen:
        assert 0 <= picture.min() < picture.max() <= 1


def test_the_same_weights_and_caption_make_the_same_picture(world):
    (method,) = [one for one in SAMPLED if one.key == "lora"]
    runs: list[list[torch.Tensor]] = [[], []]
    for seen in runs:
        torch.manual_seed(len(runs[0]))
        learn_any(world, method, "sample/same", 1, seen.append)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert not torch.equal(runs[0][0], runs[0][2]), "the weights have changed"


@pytest.mark.parametrize(("guides_itself", "rows"), [(False, 2), (True, 1)])
def test_a_picture_of_a_model_that_guides_itself_is_made_at_cfg_1(
    world, monkeypatch, guides_itself, rows
):
    denoise, seen = HostDenoiser.denoise, []

    def counted(denoiser, x, sigma, conditions):
        if not torch.is_grad_enabled():
            seen.append(len(conditions))
        return denoise(denoiser, x, sigma, conditions)

    monkeypatch.setattr(HostDenoiser, "guides_itself", guides_itself)
    monkeypatch.setattr(HostDenoiser, "denoise", counted)
    learn_any(world, SAMPLED[0], f"sample/cfg_{rows}", 4)
    assert seen == [rows] * sample.STEPS


GUIDE_THEMSELVES = {
    "Flux", "FluxInpaint", "FluxSchnell", "Flux2", "HunyuanVideo", "HunyuanVideoI2V",
    "HunyuanVideoSkyreelsI2V", "HunyuanVideo15_SR_Distilled", "HunyuanImage21", "Hunyuan3Dv2mini",
}  # fmt: skip


OTHERS = {
    "SD15", "SDXL", "SD3", "Chroma", "LongCatImage", "QwenImage", "ZImage", "WAN21_T2V",
    "HunyuanVideo15", "HunyuanImage21Refiner", "Hunyuan3Dv2",
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(GUIDE_THEMSELVES | OTHERS))
def test_the_weights_of_a_model_tell_whether_it_guides_itself(kind):
    with open_denoiser(TINY[kind].make(kind)) as denoiser:
        assert denoiser.guides_itself == (kind in GUIDE_THEMSELVES)


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("no room"), RuntimeError("no room"), MemoryError("no room")],
    ids=lambda one: type(one).__name__,
)
def test_no_room_for_a_picture_ends_the_pictures_and_not_the_training(world, monkeypatch, error):
    """Each device has an error of its own; the page is told once."""
    said: list[str] = []

    def full(*_given):
        raise error

    monkeypatch.setattr(sample, "sample", full)
    done = learn_any(world, SAMPLED[0], "sample/full", 1, warn=said.append)
    assert len(done.losses) == 4
    assert said == ["The training goes on without sample pictures; one failed: no room"]


def test_a_vae_that_cannot_be_copied_ends_the_pictures_and_not_the_training(world, monkeypatch):
    """Under dynamic VRAM it is loaded anew, by a loader that tells how."""
    said: list[str] = []
    monkeypatch.setattr(world.vae.patcher, "is_dynamic", lambda: True)
    monkeypatch.setattr(world.vae.patcher, "cached_patcher_init", None)
    done = learn_any(world, SAMPLED[0], "sample/uncopied", 1, warn=said.append)
    assert len(done.losses) == 4
    assert len(said) == 1 and said[0].startswith("The training shows no sample pictures")


def test_cancel_is_heard_while_a_picture_is_made(world, monkeypatch):
    """After the step of it that runs, not after the whole picture."""
    kept, calls, turn, denoise = [], [], sample._turn, HostDenoiser.denoise

    def counted(*given):
        calls.append(1)
        comfy.model_management.interrupt_current_processing()
        return denoise(*given)

    def begun(*given):
        monkeypatch.setattr(HostDenoiser, "denoise", counted)
        return turn(*given)

    monkeypatch.setattr(sample, "_turn", begun)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn_any(world, SAMPLED[0], "sample/cancel", 2, kept=kept.append)
    assert [one.step for one in kept] == [2] and len(calls) == 1


def test_the_page_shows_the_picture_beside_the_loss(world):
    previews = []
    shown = PageWatch(4, lambda text, **more: None)
    shown._bar.update_absolute = lambda *given: previews.append(given[2])
    learn_any(world, SAMPLED[0], "sample/page", 2, shown.sample, shown)
    sizes = [preview[1].size for preview in previews if preview]
    assert sizes == [(640, 360), (640 + 270, 360), (640 + 270, 360)]
