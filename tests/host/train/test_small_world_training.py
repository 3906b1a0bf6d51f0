"""A training of the small world's base model: resumed, slowed down after a loss that is not finite,
and written for the host."""

import math

import pytest
import torch
from safetensors.torch import load_file

from small_world.train import base
from small_world.train.host import build_model
from small_world.train.text import build_text_model

SETTINGS = {"device": "cpu", "steps": 5, "batch": 1, "first": 128, "pictures": 128,
            "half_share": 0.5, "noise": "uniform"}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.pt"
    torch.manual_seed(0)
    torch.save(build_text_model().state_dict(), path)
    return path


@pytest.fixture
def begin(tmp_path, text, monkeypatch):
    monkeypatch.setattr(base, "LOOK", base.LOOK[:1])
    begun = []

    def begin(start=None, **settings):
        how = base.Settings(**SETTINGS | settings)
        training = base.BaseTraining(tmp_path, how, 1, start, text)
        training.pool.fill(training.farm, training.first)
        begun.append(training)
        return training

    yield begin
    for training in begun:
        training.farm.close()


def test_an_interrupted_training_goes_on_where_it_was(begin):
    first = begin()
    for _ in range(3):
        first.train_step()
    first.check()
    first.save()
    second = begin()
    assert (second.step, second.shown, second.total) == (first.step, first.shown, first.total)
    assert second.learning_rate() == first.learning_rate()
    for mine, other in ((first.parameters, second.parameters), (first.average, second.average)):
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
    kept = second.optimiser.state[second.parameters[0]]["exp_avg"]
    assert torch.equal(kept, first.optimiser.state[first.parameters[0]]["exp_avg"])


def test_half_size_comes_first_and_the_rate_ends_at_nothing(begin):
    training = begin(steps=1000)
    rates, halves = [], []
    for step in range(1000):
        training.step = step
        rates.append(training.learning_rate())
        halves.append(training.at_half_size())
    pictures = sum(base.HALF_BATCHES if half else 1 for half in halves)
    assert halves == sorted(halves, reverse=True)
    assert sum(halves) * base.HALF_BATCHES / pictures == pytest.approx(0.5, abs=0.01)
    peak = rates.index(max(rates))
    assert rates[peak] <= training.rate and rates[-1] < 0.01 * training.rate
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_loss_that_is_not_finite_brings_the_last_good_weights_back(begin):
    training = begin()
    training.train_step()
    training.check()
    good, rate = [p.detach().clone() for p in training.parameters], training.learning_rate()
    with torch.no_grad():
        training.parameters[0].fill_(math.nan)
    training.train_step()
    training.step -= 1
    training.check()
    assert all(torch.equal(a, b) for a, b in zip(training.parameters, good, strict=True))
    assert training.learning_rate() == pytest.approx(rate / 2)
    training.train_step()
    assert math.isfinite(training.running.item())


def test_what_is_written_is_the_average_and_can_be_started_from(begin, tmp_path):
    training = begin()
    training.train_step()
    path = training.write()
    tensors = load_file(path)
    for name, value in training.averaged().items():
        written = tensors[f"model.diffusion_model.{name}"]
        assert torch.equal(written, value.half()), name
    assert set(tensors) == set(load_file(base_checkpoint()))
    again = begin(start=path)
    assert again.step == 0 and again.half_share == 0.5
    assert torch.allclose(again.parameters[0], training.average[0], atol=1e-3)


def base_checkpoint():
    from small_world.judge import FOLDER

    return FOLDER.parent / "checkpoints" / "craft_small_world.safetensors"


def test_the_model_is_what_the_checkpoint_was(begin):
    names = {name for name, _ in build_model().diffusion_model.named_parameters()}
    shipped = load_file(base_checkpoint())
    prefix = "model.diffusion_model."
    assert {name.removeprefix(prefix) for name in shipped if name.startswith(prefix)} == names
