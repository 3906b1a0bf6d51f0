"""Sample pictures while a training runs: what is learned stays the same, to the byte."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from craft_lora_pack.comfy_adapter.train import sample
from craft_lora_pack.comfy_adapter.train.run import PageWatch
from craft_lora_pack.comfy_adapter.train.start import start_training
from craft_lora_pack.comfy_adapter.train.train import Captioned, FilledSlots, How, ModelParts
from craft_lora_pack.craft_core.training import TRAINING
from safetensors.torch import load_file
from small_world_models import load

KNOBS = {"rank": 2, "steps": 4, "batch_size": 1, "learning_rate": 1e-2, "warmup": 0}
SETS = "content: middle_block\nstyle: output_blocks.8"
SAMPLED = [method for method in TRAINING if method.traits.slots.samples]


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return load()


def image(seed):
    return torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(seed))


def learn(world, method, name, every, show=lambda picture: None, watch=lambda t: None, **how):
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
    plain = learn(world, method, name, 0, seen.append, checkpointing=checkpointing)
    assert seen == []
    shown = learn(world, method, name, 2, seen.append, checkpointing=checkpointing)
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
        learn(world, method, "sample/same", 1, seen.append)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert not torch.equal(runs[0][0], runs[0][2]), "the weights have changed"


def test_no_room_for_a_picture_ends_the_pictures_and_not_the_training(world, monkeypatch, caplog):
    def full(*_given):
        raise torch.cuda.OutOfMemoryError("none")

    monkeypatch.setattr(sample, "sample", full)
    done = learn(world, SAMPLED[0], "sample/full", 1)
    assert len(done.losses) == 4
    assert caplog.text.count("found no memory") == 1


def test_cancel_is_heard_while_a_picture_is_made(world, monkeypatch):
    kept, make = [], sample.sample

    def cancelled(*given):
        comfy.model_management.interrupt_current_processing()
        return make(*given)

    monkeypatch.setattr(sample, "sample", cancelled)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        learn(world, SAMPLED[0], "sample/cancel", 2, kept=kept.append)
    assert [one.step for one in kept] == [2]


def test_the_page_shows_the_picture_beside_the_loss(world):
    previews = []
    shown = PageWatch(4, lambda text, **more: None)
    shown._bar.update_absolute = lambda *given: previews.append(given[2])
    learn(world, SAMPLED[0], "sample/page", 2, shown.sample, shown)
    sizes = [preview[1].size for preview in previews if preview]
    assert sizes == [(640, 360), (640 + 270, 360), (640 + 270, 360)]
