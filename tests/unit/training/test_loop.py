"""The loop: same seed same bytes, resumed as uninterrupted, nothing lost to a bad step."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_denoiser import Pulled, ToyDenoiser, dataset

from craft_core.errors import CraftError
from craft_core.training import Pace, Pictures, RoleLayers, Training, lora


def make(steps=6, seed=3, **changes) -> Training:
    denoiser = ToyDenoiser()
    place = RoleLayers("content", frozenset(denoiser.layers), "all")
    settings = {"rank": 2, "steps": steps, "learning_rate": 1e-2, "warmup": 2, "batch_size": 2}
    return lora(denoiser, Pictures(dataset()), place, seed=seed, **{**settings, **changes})


def written(training: Training, folder, name: str) -> bytes:
    path = folder / f"{name}.safetensors"
    training.write(path)
    return path.read_bytes()


def test_the_same_seed_gives_the_same_file(tmp_path):
    files = []
    for name in "ab":
        training = make()
        training.run()
        files.append(written(training, tmp_path, name))
    assert files[0] == files[1]


def test_another_seed_gives_another_file(tmp_path):
    first, second = make(seed=1), make(seed=2)
    first.run()
    second.run()
    assert written(first, tmp_path, "a") != written(second, tmp_path, "b")


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_training_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path, stop, accumulate):
    whole = make(accumulate=accumulate)
    whole.run()
    stopped = make(accumulate=accumulate)
    for _ in range(stop):
        stopped.advance()
    stopped.save(tmp_path / "state.safetensors")
    resumed = make(accumulate=accumulate)
    resumed.resume(tmp_path / "state.safetensors")
    assert resumed.step == stop
    resumed.run()
    assert resumed.losses == whole.losses
    assert written(resumed, tmp_path, "a") == written(whole, tmp_path, "b")


def test_a_finished_training_can_go_on_towards_more_steps(tmp_path):
    short = make(steps=3)
    short.run()
    short.save(tmp_path / "state.safetensors")
    longer = make(steps=5)
    longer.resume(tmp_path / "state.safetensors")
    longer.run()
    assert longer.step == 5 and longer.losses[:3] == short.losses


@pytest.mark.parametrize("change", [{"rank": 3}, {"seed": 4}, {"learning_rate": 1e-3}])
def test_the_state_of_another_training_is_refused_by_name(tmp_path, change):
    training = make()
    training.advance()
    training.save(tmp_path / "state.safetensors")
    with pytest.raises(CraftError, match="another training"):
        make(**change).resume(tmp_path / "state.safetensors")


def test_a_state_that_names_no_optimiser_is_of_adamw(tmp_path):
    training = make()
    training.advance()
    training.save(tmp_path / "state.safetensors")
    with safe_open(tmp_path / "state.safetensors", framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(tmp_path / "state.safetensors")
    recorded = json.loads(metadata["recipe"])
    assert recorded.pop("optimiser") == "adamw"
    save_file(tensors, tmp_path / "old.safetensors", {**metadata, "recipe": json.dumps(recorded)})
    older = make()
    older.resume(tmp_path / "old.safetensors")
    assert older.step == 1


def test_fewer_steps_than_done_are_refused(tmp_path):
    training = make(steps=4)
    training.run()
    training.save(tmp_path / "state.safetensors")
    with pytest.raises(CraftError, match="has done 4 steps, 2 were asked for"):
        make(steps=2).resume(tmp_path / "state.safetensors")


def test_a_file_that_is_no_state_is_refused(tmp_path):
    training = make()
    training.advance()
    written(training, tmp_path, "lora")
    with pytest.raises(CraftError, match="no training state"):
        make().resume(tmp_path / "lora.safetensors")
    with pytest.raises(CraftError, match="cannot be read"):
        make().resume(tmp_path / "missing.safetensors")


def test_a_loss_that_is_not_finite_stops_before_the_parameters_change():
    training = make()
    training.advance()
    before = {name: value.detach().clone() for name, value in training.parameters.items()}
    with torch.no_grad():
        training.recipe.denoiser.network.conv_out.bias.fill_(float("nan"))
    with pytest.raises(CraftError, match="Step 2 of 6"):
        training.advance()
    assert training.step == 1
    assert all(torch.equal(before[name], value) for name, value in training.parameters.items())


def test_gradients_of_accumulated_batches_are_means_not_sums():
    """A loss without randomness: any number of equal batches takes the same step."""

    results = []
    for accumulate in (1, 4):
        training = Training(Pulled(2), Pace(3, 0.1, accumulate=accumulate))
        training.run()
        results.append((training.losses, training.parameters["a"].detach()))
    assert results[0][0] == pytest.approx(results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_without_a_step_the_file_is_the_recipes_start(tmp_path):
    """0 steps: what is asked of a training is then what a recipe begins with."""
    untouched = make(steps=0)
    untouched.run()
    assert untouched.losses == []
    (begun := make(steps=0)).write(tmp_path / "begun.safetensors")
    assert written(untouched, tmp_path, "run") == (tmp_path / "begun.safetensors").read_bytes()
    assert all(torch.equal(untouched.parameters[n], v) for n, v in begun.parameters.items())


@pytest.mark.parametrize("stop", [1, 2])
def test_plain_steps_follow_the_gradient_and_resume(tmp_path, stop):
    """optimiser sgd: x <- x - rate 2 x of the loss x^2, whole or resumed."""

    class Square:
        def __init__(self):
            self.x = torch.tensor([4.0], requires_grad=True)

        def parameters(self):
            return {"x": self.x}

        def backward(self, draw, share):
            loss = self.x.square().sum()
            (share * loss).backward()
            return {"square": float(loss.detach())}

        def settings(self):
            return {}

        def write(self, path, metadata): ...

    pace = Pace(3, 0.25, min_rate=0.25, max_norm=0, optimiser="sgd")
    stopped = Training(Square(), pace)
    for _ in range(stop):
        stopped.advance()
    stopped.save(tmp_path / "state.safetensors")
    training = Training(Square(), pace)
    training.resume(tmp_path / "state.safetensors")
    training.run()
    assert training.parameters["x"].item() == 0.5 and training.losses == [16.0, 4.0, 1.0]


def test_the_rate_rises_then_falls_as_a_cosine():
    pace = Pace(steps=101, rate=1.0, warmup=0, min_rate=0.2)
    assert pace.rate_at(0) == 1.0
    assert pace.rate_at(50) == pytest.approx(0.6)
    assert pace.rate_at(100) == pytest.approx(0.2)
    warm = Pace(steps=20, rate=1.0, warmup=4)
    assert [warm.rate_at(i) for i in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    "wrong", [{"steps": -1}, {"rate": 0.0}, {"rate": float("nan")}, {"min_rate": 2.0},
              {"warmup": -1}, {"accumulate": 0}],
)  # fmt: skip
def test_a_pace_that_cannot_be_run_is_refused(wrong):
    with pytest.raises(CraftError):
        Pace(**{"steps": 5, "rate": 1.0, **wrong})


def test_the_file_says_how_it_was_trained(tmp_path):
    training = make()
    training.run()
    written(training, tmp_path, "lora")
    with safe_open(tmp_path / "lora.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["loss_curve"]) == pytest.approx(training.losses, rel=1e-4)
    assert metadata["steps_done"] == "6"
    recorded = json.loads(metadata["training"])
    assert (recorded["rank"], recorded["seed"], recorded["layer_set"]) == ("2", "3", "all")


def test_a_stopped_training_can_be_written_at_once(tmp_path):
    training = make()
    assert written(training, tmp_path, "nothing learned yet")
    training.advance()
    assert written(training, tmp_path, "one step")


def saved_state(folder, steps=2):
    training = make()
    for _ in range(steps):
        training.advance()
    training.save(folder / "state.safetensors")
    return training, folder / "state.safetensors"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["parameter.", "exp_avg.", "exp_avg_sq.", "losses"])
def test_a_state_with_nan_or_infinity_is_refused_and_changes_nothing(tmp_path, which, bad):
    _, path = saved_state(tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    key = next(one for one in tensors if one.startswith(which))
    tensors[key].view(-1)[0] = bad
    save_file(tensors, path, metadata)
    resumed = make()
    before = {name: one.detach().clone() for name, one in resumed.parameters.items()}
    with pytest.raises(CraftError, match="holds NaN or infinity"):
        resumed.resume(path)
    assert resumed.step == 0 and not resumed.optimiser.state
    assert all(torch.equal(before[name], one) for name, one in resumed.parameters.items())


def test_numbers_that_are_not_finite_never_take_the_place_of_a_good_state(tmp_path):
    training, path = saved_state(tmp_path)
    good = path.read_bytes()
    with torch.no_grad():
        next(iter(training.parameters.values())).fill_(float("nan"))
    with pytest.raises(CraftError, match="holds NaN or infinity"):
        training.save(path)
    assert path.read_bytes() == good


class Sometimes:
    """Pulls each parameter to 0 in the batches it is named for, and gives it no gradient in
    others."""

    def __init__(self, batches: dict[str, set[int]]) -> None:
        self.batches = batches
        self.values = {name: torch.ones(3, requires_grad=True) for name in batches}

    def parameters(self):
        return self.values

    def backward(self, draw, share):
        named = [self.values[name] for name, own in self.batches.items() if draw.step in own]
        loss = sum(value.square().sum() for value in named)
        (share * loss).backward()
        return {"loss": float(loss.detach())}

    def settings(self):
        return {}

    def write(self, path, metadata): ...


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_parameters_without_gradients_in_some_steps_or_all_resume_as_uninterrupted(tmp_path, stop):
    """Layers whose output a model throws away, such as those of Qwen-Image's last text stream."""
    batches = {"always": {*range(5)}, "never": set(), "late": {2, 3, 4}, "early": {0, 3}}

    def start():
        return Training(Sometimes(batches), Pace(5, 0.1, weight_decay=0.1))

    whole, stopped, resumed = start(), start(), start()
    whole.run()
    for _ in range(stop):
        stopped.advance()
    stopped.save(tmp_path / "state.safetensors")
    resumed.resume(tmp_path / "state.safetensors")
    resumed.run()
    assert resumed.losses == whole.losses
    for name, value in whole.parameters.items():
        assert torch.equal(resumed.parameters[name], value), name
        found, expected = (one.optimiser.state.get(one.parameters[name], {})
                           for one in (resumed, whole))  # fmt: skip
        assert found.keys() == expected.keys(), name
        assert all(torch.equal(found[kind], expected[kind]) for kind in expected), name


BROKEN_STATES = {
    "one average less": lambda tensors, metadata: tensors.pop(
        next(key for key in tensors if key.startswith("exp_avg_sq."))
    ),
    "no averages at all": lambda tensors, metadata: [
        tensors.pop(key) for key in list(tensors) if key.startswith("exp_avg")
    ],
    "a number of updates without averages": lambda tensors, metadata: [
        tensors.update({"updates.down.blocks.0.q": torch.tensor(1.0)}),
        tensors.pop("exp_avg.down.blocks.0.q"),
        tensors.pop("exp_avg_sq.down.blocks.0.q"),
    ],
    "as many updates as steps": lambda tensors, metadata: tensors.update(
        {"updates.down.blocks.0.q": torch.tensor(2.0)}
    ),
    "half an update": lambda tensors, metadata: tensors.update(
        {"updates.down.blocks.0.q": torch.tensor(0.5)}
    ),
    "a list of updates": lambda tensors, metadata: tensors.update(
        {"updates.down.blocks.0.q": torch.ones(2)}
    ),
    "no settings": lambda tensors, metadata: metadata.pop("recipe"),
    "settings that are no JSON": lambda tensors, metadata: metadata.update(recipe="{"),
    "settings that are no table": lambda tensors, metadata: metadata.update(recipe="[1]"),
    "deep settings": lambda tensors, metadata: metadata.update(recipe="[" * 100_000),
    "no losses": lambda tensors, metadata: tensors.pop("losses"),
    "a table of losses": lambda tensors, metadata: tensors.update(losses=torch.ones(2, 2)),
    "whole losses": lambda tensors, metadata: tensors.update(losses=torch.ones(2, dtype=int)),
    "one tensor less": lambda tensors, metadata: tensors.pop(min(tensors)),
    "one more": lambda tensors, metadata: tensors.update(x=torch.ones(1)),
    "another shape": lambda tensors, metadata: tensors.update({min(tensors): torch.ones(1)}),
}


@pytest.mark.parametrize("spoil", BROKEN_STATES.values(), ids=BROKEN_STATES)
def test_a_broken_state_is_refused_as_damaged(tmp_path, spoil):
    _, path = saved_state(tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    spoil(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(CraftError, match="is damaged"):
        make().resume(path)


def test_a_state_is_saved_exclusively_where_that_is_asked_for(tmp_path):
    training, path = saved_state(tmp_path)
    before = path.read_bytes()
    training.advance()
    with pytest.raises(CraftError, match="is there already"):
        training.save(path, exclusive=True)
    assert path.read_bytes() == before


def test_a_result_never_takes_the_place_of_another(tmp_path):
    training = make()
    before = written(training, tmp_path, "a")
    with pytest.raises(CraftError, match="is there already"):
        training.write(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == before
