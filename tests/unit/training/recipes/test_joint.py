"""Two LoRAs learn in one training, each on its own layers, into one file."""

from __future__ import annotations

import pytest
import torch
from toy_denoiser import ToyDenoiser, dataset

from craft_core.errors import CraftError
from craft_core.lora import read_lora
from craft_core.training import Place, joint
from craft_core.training.losses import Draw
from craft_core.training.recipes.joint import PicturesOfBoth

LAYERS = {"content": frozenset({"blocks.0.q"}), "style": frozenset({"mid"})}


def training(content=LAYERS["content"], style=LAYERS["style"], **settings):
    places = {"content": Place("content", content, "mine"), "style": Place("style", style, "mine")}
    given = {"rank": 2, "learning_rate": 1e-2, "batch_size": 2, "warmup": 0, "steps": 3}
    both = PicturesOfBoth(dataset(), dataset())
    return joint(ToyDenoiser(), both, places, **{**given, **settings})


def test_the_file_holds_both_loras_on_their_layers(tmp_path):
    learned = training(save_as="fp32")
    learned.run()
    learned.write(tmp_path / "a.safetensors")
    file = read_lora(tmp_path / "a.safetensors", ToyDenoiser().layers)
    assert set(file.layers) == LAYERS["content"] | LAYERS["style"] and not file.unmatched
    assert file.metadata["craft_role"] == "content style"
    for role, (path,) in LAYERS.items():
        (factors,) = file.layers[path]
        own = learned.recipe.halves[role].factors(path).delta().detach()
        assert bool(own.any())
        torch.testing.assert_close(factors.delta(), own)


def test_each_lora_learns_beside_the_other():
    """Once the other has learned something, its update changes what a step teaches."""

    def gradients(other_acts: bool):
        recipe = training().recipe
        style = recipe.halves["style"]
        with torch.no_grad():
            style.up["mid"].fill_(0.5 if other_acts else 0.0)
        recipe.backward(Draw(0, 0), 1.0)
        return recipe.halves["content"].up["blocks.0.q"].grad.clone()

    assert not torch.equal(gradients(False), gradients(True))


def test_a_layer_of_both_roles_is_an_error():
    with pytest.raises(CraftError, match="both roles"):
        training(content=frozenset({"mid", "blocks.0.q"}))


def test_a_role_without_layers_is_an_error():
    with pytest.raises(CraftError, match="style set can be trained"):
        training(style=frozenset())
