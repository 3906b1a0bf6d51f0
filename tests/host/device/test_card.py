"""What only a device other than the processor's memory can show; `run.py test device` runs it.

Other host tests run there, too (launcher/run/tiers.py).
"""

from __future__ import annotations

import gc

import comfy.model_management as management
import comfy.samplers
import oracle
import pretend_device
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.train.train import ModelParts
from craft_lora_pack.craft_core.lora import STATISTICS
from craft_lora_pack.craft_core.projection import decomposed, orthonormal
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import Factors
from oracle import LAW, distance
from small_world_models import load
from trainings import FEW_STEPS, TRAININGS, one_of_each
from two_loras import NEGATIVE, POSITIVE, loras, routed, two_loaders

pytestmark = pytest.mark.skipif(
    not pretend_device.is_asked_for(), reason="the host runs in the processor's memory"
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
EVALUATIONS = {"role": 3}  # of a step
COPIED = 2  # tensors of the conditionings, which the host copies there for each evaluation


@pytest.fixture(autouse=True)
def _nothing_loaded():
    management.unload_all_models()
    gc.collect()
    yield
    management.unload_all_models()


def sampled(model):
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(), steps=STEPS)


def where(module) -> set[str]:
    return {parameter.device.type for parameter in module.parameters()}


# --- where what a MODEL brings lies


@pytest.mark.parametrize("way", GUIDED)
def test_branches_run_on_the_device_and_leave_it_with_the_model(way):
    before = pretend_device.held()
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
    gc.collect()
    assert pretend_device.held() <= before


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
    few, more = (waits["ours", steps] - waits["plain", steps] for steps in (2, 5))
    changes = "cosine" in way or way == "role"
    assert more - few == 3 * (changes + COPIED * (EVALUATIONS.get(way, 1) - 1))


@pytest.mark.parametrize("way", GUIDED)
def test_no_run_needs_double_precision(way):
    model, other = tiny.sdxl(), tiny.sdxl()
    states = loras(model_layers(model))
    with pretend_device.without_float64():
        made = sampled(GUIDED[way](model, states))
    assert torch.equal(made, sampled(GUIDED[way](other, states)))


def test_a_basis_is_orthonormal_on_a_device_without_qr():
    generator = torch.Generator().manual_seed(1)
    here = torch.randn(2, 6, 3, generator=generator, requires_grad=True)
    there = here.detach().to(pretend_device.device()).requires_grad_(True)
    weights = torch.randn(2, 6, 3, generator=generator)
    (decomposed(here)[0] * weights).sum().backward()
    with pretend_device.without_decompositions():
        (decomposed(there)[0] * weights.to(there.device)).sum().backward()
        torch.testing.assert_close(there.grad.cpu(), here.grad)
        assert orthonormal(there[0].detach()).device == there.device


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return load()


@pytest.mark.parametrize("key", TRAININGS)
def test_every_training_runs_on_a_device_without_decompositions(world, key):
    """A step of any, and the file that it writes."""
    source = ModelParts(world.model, world.clip, world.vae)
    with pretend_device.without_decompositions():
        made = one_of_each(key, source, f"without_decompositions/{key}")
    assert len(made.losses) == FEW_STEPS and made.path.is_file()


@pytest.mark.parametrize("name", STATISTICS)
def test_what_a_method_measures_needs_no_double_precision(name):
    generator = torch.Generator().manual_seed(1)
    update = Factors(
        torch.randn(4, 24, generator=generator), torch.randn(16, 4, generator=generator), 0.5
    )
    there = update.mapped(lambda tensor: tensor.to(pretend_device.device()))
    found = STATISTICS[name].measure([update], 5)
    with pretend_device.without_float64():
        assert STATISTICS[name].measure([there], 5) == pytest.approx(found, rel=1e-5)


# --- a card that is too small


def leave_room(size: float, monkeypatch) -> None:
    """Bytes for models, beside what the host keeps free for its activations."""
    room = int(management.minimum_inference_memory() + pretend_device.held() + size)
    monkeypatch.setattr(pretend_device, "MEMORY", room)


def loaded_when_sampled(model, monkeypatch) -> list[int]:
    """Filled by each sampling: bytes of the model on the device."""
    found, original = [], comfy.samplers.process_conds

    def noting(*args, **named):
        found.append(model.loaded_size())
        return original(*args, **named)

    monkeypatch.setattr(comfy.samplers, "process_conds", noting)
    return found


@pytest.mark.parametrize("way", GUIDED)
def test_a_model_that_does_not_fit_gives_the_same_picture(way, monkeypatch):
    model = tiny.sdxl()
    states = loras(model_layers(model))
    expected = sampled(GUIDED[way](model, states))
    there = []
    for share in (0.9, 0.4, 0.0):
        management.unload_all_models()
        gc.collect()
        small = tiny.sdxl()
        ours = GUIDED[way](small, states)
        leave_room(share * model.model_size(), monkeypatch)
        loaded = loaded_when_sampled(small, monkeypatch)
        assert distance(sampled(ours), expected) <= LAW
        there += loaded
    assert model.model_size() > there[0] > there[1] > there[2]


def test_the_hosts_two_loaders_agree_on_a_card_that_is_too_small(monkeypatch):
    model, other = tiny.sdxl(), tiny.sdxl()
    states = loras(model_layers(model))
    results, size = [], model.model_size()
    for small in (routed(model, states), two_loaders(other, states)):
        management.unload_all_models()
        gc.collect()
        leave_room(0.4 * size, monkeypatch)
        loaded = loaded_when_sampled(small, monkeypatch)
        results.append(sampled(small))
        assert max(loaded) < size
    assert distance(*results) <= LAW
