"""What only a device other than the processor's memory can show; `run.py test device` runs it.

The whole of the engine's tests run there, too (launcher/run/tiers.py).
"""

from __future__ import annotations

import comfy.model_management as management
import comfy.samplers
import numpy as np
import oracle
import pretend_device
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from oracle import LAW, distance
from two_loras import NEGATIVE, POSITIVE, loras, routed, two_loaders

pytestmark = pytest.mark.skipif(
    not pretend_device.is_the_hosts_device(), reason="the host runs in the processor's memory"
)
STEPS = 3
GUIDED = {
    "direct": lambda model, states: routed(model, states),
    "direct, cosine": lambda model, states: routed(model, states, Schedule("cosine")),
    "ACFG": lambda model, states: engine.set_asymmetric(routed(model, states), True),
    "ACFG, cosine": lambda model, states: engine.set_asymmetric(
        routed(model, states, Schedule("cosine")), True
    ),
    "role": lambda model, states: engine.set_guidance(
        routed(model, states, Schedule("cosine")), "role", {"content_weight": 2.0}
    ),
}


@pytest.fixture(autouse=True)
def _nothing_loaded():
    management.unload_all_models()
    yield
    management.unload_all_models()


def sampled(model):
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(), steps=STEPS)


def where(module) -> set[str]:
    return {parameter.device.type for parameter in module.parameters()}


# --- the device itself


def test_the_device_refuses_what_a_card_refuses():
    here, there = torch.ones(2, 3), torch.ones(2, 3, device=pretend_device.device())
    other = torch.ones(2, 3, device=pretend_device.device(1))
    for mixed in (lambda: here + there, lambda: there + other, lambda: there @ here.T,
                  lambda: torch.cat([here, there]), lambda: there.add_(here)):  # fmt: skip
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    for read in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match="can't convert"):
            read()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, generator=torch.Generator(), device=there.device)
    assert (there + torch.tensor(1.0)).device == there.device  # one number is let in


def test_the_device_computes_as_the_processor_does_and_counts_what_waits():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4))
    expected = network(x)
    network.to(pretend_device.device())
    with pretend_device.counting() as found:
        made = network(x.to(pretend_device.device()))
    assert found["waits"] == 0
    assert found["launches"] >= 3  # a copy, a convolution and a normalisation
    torch.testing.assert_close(made.cpu(), expected)
    with pretend_device.counting() as found:
        made.sum().item()
        made.cpu()
        made[made > 0]
    assert found["waits"] == 3


def test_a_card_can_lack_double_precision():
    with pretend_device.without_float64():
        for make in (lambda: torch.ones(2, dtype=torch.float64).to(pretend_device.device()),
                     lambda: torch.ones(2, device=pretend_device.device()).double(),
                     lambda: torch.zeros(2, dtype=torch.float64, device=pretend_device.device())):  # fmt: skip
            with pytest.raises(TypeError, match="float64"):
                make()
    assert torch.ones(2, device=pretend_device.device()).double().dtype == torch.float64


# --- where what a MODEL brings lies


@pytest.mark.parametrize("way", GUIDED)
def test_branches_run_on_the_device_and_leave_it_with_the_model(way):
    before = held()
    model = tiny.sdxl()
    ours = GUIDED[way](model, loras(model_layers(model)))
    sampled(ours)
    (*branches,) = (patcher.model for patcher in ours.model_patches_models())
    (*more,) = (one.model for kind in ours.additional_models.values() for one in kind)
    assert branches + more
    for module in (*branches, *more, model.model.diffusion_model):
        assert where(module) == {pretend_device.NAME}
    management.unload_all_models()
    for module in (*branches, *more, model.model.diffusion_model):
        assert where(module) == {"cpu"}
    assert held() <= before


def held() -> int:
    with pretend_device.counting() as found:
        pass
    return found["most held"]


@pytest.mark.parametrize("way", GUIDED)
def test_a_step_waits_for_the_device_no_more_than_for_its_noise_level(way):
    waits = {}
    for steps in (2, 5):
        for name, made in (("plain", lambda model, _: model), ("ours", GUIDED[way])):
            model = tiny.sdxl()
            ours = made(model, loras(model_layers(model)))
            guider = oracle.guider(ours, POSITIVE, NEGATIVE)
            oracle.sample(guider, tiny.latent(), steps=2)  # loaded, and measured
            with pretend_device.counting() as found:
                oracle.sample(guider, tiny.latent(), steps=steps)
            waits[name, steps] = found["waits"]
    of_three_steps = [waits["ours", n] - waits["plain", n] for n in (2, 5)]
    changes = "cosine" in way or way == "role"
    assert of_three_steps[1] - of_three_steps[0] == 3 * changes


@pytest.mark.parametrize("way", GUIDED)
def test_no_step_needs_double_precision(way):
    model = tiny.sdxl()
    ours = GUIDED[way](model, loras(model_layers(model)))
    expected = sampled(ours)
    with pretend_device.without_float64():
        assert torch.equal(sampled(ours), expected)


# --- a card that is too small


def leave_room(size: float, monkeypatch) -> None:
    """Bytes for models, beside what the host keeps free for its activations."""
    room = int(management.minimum_inference_memory() + size)
    monkeypatch.setattr(pretend_device, "MEMORY", room)


ROOM = {"half of the model": 0.5, "a tenth of it": 0.1, "nothing": 0.0}


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("way", GUIDED)
def test_a_model_that_does_not_fit_gives_the_same_picture(way, room, monkeypatch):
    model = tiny.sdxl()
    states = loras(model_layers(model))
    expected = sampled(GUIDED[way](model, states))
    management.unload_all_models()
    size, small = model.model_size(), tiny.sdxl()
    ours = GUIDED[way](small, states)
    leave_room(ROOM[room] * size, monkeypatch)
    loaded = []
    monkeypatch.setattr(
        comfy.samplers, "process_conds",
        lambda *args, _original=comfy.samplers.process_conds, **named: (
            loaded.append(small.loaded_size()), _original(*args, **named)
        )[1],
    )  # fmt: skip
    made = sampled(ours)
    assert max(loaded) < size  # some of it stayed in the processor's memory
    assert distance(made, expected) <= LAW


def test_the_hosts_two_loaders_agree_on_a_card_that_is_too_small(monkeypatch):
    model, other = tiny.sdxl(), tiny.sdxl()
    states = loras(model_layers(model))
    leave_room(0.3 * model.model_size(), monkeypatch)
    assert distance(sampled(routed(model, states)), sampled(two_loaders(other, states))) <= LAW
