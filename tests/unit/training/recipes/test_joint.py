"""Two LoRAs learn in one training, each on its own layers, into one file."""

from __future__ import annotations

import pytest
import torch
from toy_denoiser import ToyDenoiser, dataset

from craft_core.errors import CraftError
from craft_core.lora import read_lora
from craft_core.training import TRAINING, RoleLayers, joint
from craft_core.training.losses import Draw
from craft_core.training.recipes.joint import PicturesOfBoth

SIZES = {"steps", "batch_size", "accumulate", "learning_rate"}  # their most is for machines
LAYERS = {"content": frozenset({"blocks.0.q"}), "style": frozenset({"middle_block.0"})}


def training(content=LAYERS["content"], style=LAYERS["style"], **settings):
    places = {
        "content": RoleLayers("content", content, "mine"),
        "style": RoleLayers("style", style, "mine"),
    }
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
            style.up["middle_block.0"].fill_(0.5 if other_acts else 0.0)
        recipe.backward(Draw(0, 0), 1.0)
        return recipe.halves["content"].up["blocks.0.q"].grad.clone()

    assert not torch.equal(gradients(False), gradients(True))


def test_a_layer_of_both_roles_is_an_error():
    with pytest.raises(CraftError, match="both roles"):
        training(content=frozenset({"middle_block.0", "blocks.0.q"}))


def test_a_role_without_layers_is_an_error():
    with pytest.raises(CraftError, match="style set can be trained"):
        training(style=frozenset())


def test_a_resumed_training_ends_in_the_same_bytes(tmp_path):
    whole, stopped, resumed = (training(steps=4, accumulate=2, shift=1) for _ in range(3))
    whole.run()
    stopped.advance()
    stopped.save(tmp_path / "state.safetensors")
    resumed.resume(tmp_path / "state.safetensors")
    resumed.run()
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for one, file in zip((whole, resumed), files, strict=True):
        one.write(file)
    assert files[0].read_bytes() == files[1].read_bytes() and resumed.losses == whole.losses


KNOBS = [p for p in TRAINING["joint"].parameters if p.name not in SIZES]


@pytest.mark.parametrize("end", [0, -1], ids=["least", "most"])
@pytest.mark.parametrize("knob", KNOBS, ids=lambda one: one.name)
def test_every_knob_is_taken_at_both_ends(tmp_path, knob, end):
    values = knob.knob.choices or (knob.knob.minimum, knob.knob.maximum)
    value = bool(end) if knob.type is bool else knob.type(values[end])
    learned = training(**{knob.name: value})
    learned.run()
    learned.write(tmp_path / "a.safetensors")
    file = read_lora(tmp_path / "a.safetensors", ToyDenoiser().layers)
    assert all(torch.isfinite(f.delta()).all() for (f,) in file.layers.values())
