"""What `mirror` shows a training is the encoding of the mirrored picture, for any VAE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import small_world_models as small
import torch
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.train.data import ExampleEncoder, dataset
from craft_lora_pack.comfy_adapter.train.start import READERS
from craft_lora_pack.comfy_adapter.train.train import Captioned, FilledSlots, ModelParts
from craft_lora_pack.craft_core.training import LEARNED, TRAINING, Example, training_of
from craft_lora_pack.craft_core.training.data import Moves, batch
from craft_lora_pack.craft_core.training.slots import (
    LAYERS,
    ROLE,
    TEXT,
    UNMATCHED,
    PictureSlot,
)
from pair_parts import tiny_clip

FILES = (BranchFile(small.CONTENT, "content", 0.9), BranchFile(small.STYLE, "style", 0.6))
SETS = "content: middle_block\nstyle: output_blocks.8"
MIRRORING = [
    key
    for registry in (TRAINING, LEARNED)
    for key in registry.keys()
    if any(one.name == "mirror" for one in registry[key].parameters)
    and key != "b4m"  # which takes other LoRAs, by the reader of the other merges
]


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return small.load()


def image(seed=0):
    return torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed))


class PatchVAE:
    """A latent's channels are the patches of 2 x 2 pixels, as those of FLUX.2's format are: nothing
    is lost, and left and right are in the channels as well."""

    def spacial_compression_encode(self):
        return 2

    def encode(self, pixels):
        return torch.nn.functional.pixel_unshuffle(pixels.movedim(-1, 1), 2)

    def decode(self, latents):
        return torch.nn.functional.pixel_shuffle(latents, 2).movedim(1, -1)


def test_a_vae_whose_channels_hold_patches_shows_the_picture_or_its_mirror_image():
    vae, picture = PatchVAE(), image()
    model = SimpleNamespace(model=SimpleNamespace(process_latent_in=lambda latent: latent))
    data = dataset(ExampleEncoder(model, tiny_clip(), vae), [picture], ["a cat"], mirror=True)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(20):
        latents, _ = batch(data.examples, Moves(mirror=True), generator)
        shown = vae.decode(latents)
        ways = [torch.equal(shown, one) for one in (picture, picture.flip(2))]
        assert sum(ways) == 1
        seen.add(ways.index(True))
    assert seen == {0, 1}
    assert not torch.equal(data.examples[0].latent.flip(-1), data.examples[0].mirrored)


def examples_in(value: Any) -> Iterator[Example]:
    if isinstance(value, Example):
        yield value
    elif is_dataclass(value):
        for one in fields(value):
            yield from examples_in(getattr(value, one.name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from examples_in(one)


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("key", MIRRORING)
def test_every_training_that_mirrors_is_given_the_encoded_mirror_images(world, key, mirror):
    method, source = training_of(key), ModelParts(world.model, world.clip, world.vae)
    slots = method.traits.slots
    pictures = {
        slot.key: Captioned([image(i)], ["a <c>sks animal</c>"])
        for i, slot in enumerate(slots.of(PictureSlot))
    }
    choices = {ROLE: "content", LAYERS: SETS, TEXT: "a dog in ink", UNMATCHED: False}
    filled = FilledSlots(pictures, FILES, choices)
    settings = method.knobs({"mirror": mirror})
    with torch.inference_mode():
        prepared = READERS[slots.reader](source, method, filled, settings)
        found = list(examples_in(prepared.data(SimpleNamespace(layers={}))))
        assert {one.mirrored is not None for one in found} == {mirror}
        encoder = ExampleEncoder(world.model, world.clip, world.vae)
        wanted = [encoder.latent(image(i).flip(2), "") for i in range(len(pictures))]
    for one in found:
        assert not mirror or any(torch.equal(one.mirrored, latent) for latent in wanted)
