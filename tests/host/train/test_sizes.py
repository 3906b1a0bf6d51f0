"""No picture stalls a training: each is made to fit the size that the model was made for."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter import headless
from craft_lora_pack.comfy_adapter.train import sizes
from craft_lora_pack.comfy_adapter.train.data import ExampleEncoder, dataset
from craft_lora_pack.comfy_adapter.train.sizes import fit_pictures, native_size
from craft_lora_pack.comfy_adapter.train.train import Captioned, FilledSlots, ModelParts
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.requests import ModelFiles, Picture, TrainData, TrainingOptions
from craft_lora_pack.craft_core.training import TRAINING
from craft_lora_pack.craft_core.training.sizes import KEEP, RULES, Fit
from craft_lora_pack.nodes.training import TRAINING_NODES
from pair_parts import tiny_clip, tiny_vae
from PIL import Image
from small_world_models import load

from launcher.paths import ROOT

SETS = "content: middle_block\nstyle: output_blocks.8"
KNOBS = {"rank": 2, "steps": 2, "batch_size": 1, "learning_rate": 1e-2, "warmup": 0}
LORA = TRAINING["lora"]


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return load()


def image(width, height, seed=0):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def fit(model_parts, images, warn=lambda text: None, **asked):
    filled = FilledSlots({"images": Captioned(images, ["a cat"])}, fit=Fit(**asked))
    with torch.inference_mode():
        found, line = fit_pictures(model_parts, LORA, filled, warn)
    return [tuple(one.shape) for one in found.pictures["images"].images], line, found


def parts(world):
    return ModelParts(world.model, world.clip, world.vae)


def train(world, name, images, **optional):
    """The node as a prompt runs it. optional: inputs that need not be given."""
    knobs = {p.name: [p.default] for p in LORA.parameters} | {k: [v] for k, v in KNOBS.items()}
    with torch.inference_mode():
        return TRAINING_NODES["lora"].execute(
            [world.model], [world.clip], [world.vae], images, ["a <c>sks animal</c>"],
            role=["content"], layer_sets={"layer_sets": ["custom"], "patterns": [SETS]},
            save_name=[name], precision=["fp32"], gradient_checkpointing=[False], resume=[False],
            **knobs, **{k: [v] for k, v in optional.items()},
        ).result  # fmt: skip


def shapes(world, images, **asked):
    _, _, found = fit(parts(world), images, **asked)
    own = found.pictures["images"]
    with torch.inference_mode():
        encoder = ExampleEncoder(world.model, world.clip, world.vae)
        data = dataset(encoder, own.images, own.captions)
    return [tuple(one.latent.shape[-2:]) for one in data.examples]


def test_a_model_tells_the_size_that_it_was_made_for(world):
    assert native_size(world.model) == (64, 64)
    assert native_size(tiny.sd15()) == (512, 512)
    assert native_size(tiny.sdxl()) == (1024, 1024)


def test_a_picture_of_a_camera_trains_a_small_model_at_its_own_area(world):
    _, _, losses, report = train(world, "sizes/camera", [image(640, 480)])
    assert len(losses["loss"]) == 2
    assert "resized (area) 640 x 480 -> 72 x 56. The model was made for 64 x 64" in report


def test_a_prompt_without_the_new_inputs_learns_from_a_fitting_picture_as_it_always_did(world):
    """Kept as it is, and the default for one that fits, are the same bytes."""
    plain = train(world, "sizes/plain", [image(64, 64)])
    kept = train(world, "sizes/kept", [image(64, 64)], size=0, resize=KEEP)
    assert plain[1].keys() == kept[1].keys()
    assert all(torch.equal(plain[1][key], kept[1][key]) for key in plain[1])
    assert "as they are 64 x 64" in plain[3]


@pytest.mark.parametrize("resize", RULES)
def test_every_rule_makes_latents_of_the_size_that_it_says(world, resize):
    own = {"area": (24, 32), "keep": (48, 64)}
    assert shapes(world, [image(64, 48)], resize=resize, size=(32, 32)) == [
        own.get(resize, (32, 32))
    ]


def test_crop_is_the_hosts_own_scaling(world):
    picture = image(100, 80)
    _, _, found = fit(parts(world), [picture], resize="crop")
    scaled = comfy.utils.common_upscale(picture.movedim(-1, 1), 64, 64, "lanczos", "center")
    assert torch.equal(found.pictures["images"].images[0], scaled.movedim(1, -1))


def test_borders_are_white_and_the_picture_is_in_the_middle(world):
    _, _, found = fit(parts(world), [torch.zeros(1, 32, 128, 3)], resize="pad")
    (made,) = found.pictures["images"].images
    assert made.shape == (1, 64, 64, 3)
    assert (made[:, :24] == 1).all() and (made[:, 24:40] == 0).all() and (made[:, 40:] == 1).all()


def test_a_picture_that_counts_often_is_scaled_and_encoded_once(world):
    picture = image(640, 480)
    _, _, found = fit(parts(world), [picture, picture, image(640, 480, seed=1)])
    first, again, other = found.pictures["images"].images
    assert first is again and first is not other


@pytest.mark.parametrize("size", [None, (32, 32), (512, 512)])
@pytest.mark.parametrize("resize", RULES)
def test_whatever_makes_steps_far_longer_is_warned_of(world, resize, size):
    """A rule or a size: what counts is what is learned, beside what the model was made for."""
    said: list[str] = []
    pictures = [image(640, 480), image(64, 64)]
    sizes, _, _ = fit(parts(world), pictures, said.append, resize=resize, size=size)
    pixels = max(height * width for _, height, width, _ in sizes)
    if pixels > 2 * 64 * 64:
        (text,) = said
        assert f"{pixels / 64**2:.0f} times the pixels of 64 x 64" in text and "area" in text
    else:
        assert said == []


def test_a_model_of_an_unknown_size_says_what_stands_for_it(world, monkeypatch):
    monkeypatch.setattr(type(world.model.model.model_config), "first_latent", None)
    sizes, line, _ = fit(parts(world), [image(2000, 2000), image(64, 64)])
    assert sizes == [(1, 1024, 1024, 3), (1, 64, 64, 3)] and "not known; 1024 x 1024" in line


@pytest.mark.parametrize("asked", [{"resize": KEEP}, {"resize": "crop", "size": (60, 60)}])
def test_a_size_that_the_vae_cannot_take_is_an_error_with_a_way_out(asked):
    small = ModelParts(tiny.sd15(), tiny_clip(), tiny_vae())
    _, _, found = fit(small, [image(60, 70)], **asked)
    told = r"multiples of 8, such as 56 x .*resize to area"
    with torch.inference_mode(), pytest.raises(CraftError, match=told):
        encoder = ExampleEncoder(small.model, small.clip, small.vae)
        dataset(encoder, found.pictures["images"].images, ["a cat"])


def test_by_default_a_picture_of_any_size_fits_the_vae():
    small = ModelParts(tiny.sd15(), tiny_clip(), tiny_vae())
    sizes, _, _ = fit(small, [image(60, 70), image(700, 501)])
    assert sizes == [(1, 64, 56, 3), (1, 448, 576, 3)]


def test_cancel_is_heard_between_two_pictures(world, monkeypatch):
    made = []
    monkeypatch.setattr(sizes, "_resized", lambda image, how: made.append(how) or stop() or image)
    stop = comfy.model_management.interrupt_current_processing
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        fit(parts(world), [image(640, 480, seed) for seed in range(9)])
    assert len(made) == 1


def test_what_is_no_picture_is_named_before_it_is_scaled(world):
    with pytest.raises(CraftError, match="not finite"):
        fit(parts(world), [torch.full((1, 640, 480, 3), float("nan"))])


def test_the_command_line_has_the_same_default(world, monkeypatch, tmp_path):
    monkeypatch.setattr(headless, "_source", lambda files: parts(world))
    large = tmp_path / "large.png"
    Image.open(ROOT / "small_world" / "references" / "content.png").convert("RGB").resize(
        (640, 480)
    ).save(large)
    data = TrainData(
        "lora", {"images": [Picture(large, "a <c>sks animal</c>")], "prior": []}, (),
        {"role": "content", "layer_sets": SETS},
    )  # fmt: skip
    done = headless.train(TrainingOptions(ModelFiles(), "sizes/cli"), data, KNOBS, lambda t: None)
    assert "640 x 480 -> 72 x 56" in done.report
    cropped = TrainingOptions(ModelFiles(), "sizes/cli_crop", size=(64, 64), resize="crop")
    assert "640 x 480 -> 64 x 64" in headless.train(cropped, data, KNOBS, lambda t: None).report
