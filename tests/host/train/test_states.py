"""A training's result is never lost to its state, and no training takes another's files."""

from __future__ import annotations

import resource
import traceback
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

import comfy.model_management
import folder_paths
import pretend_device
import pytest
import torch
from craft_lora_pack.comfy_adapter.train import run
from craft_lora_pack.comfy_adapter.train.run import StoppedTraining, save_place
from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.training import Training
from craft_lora_pack.craft_core.training.loop import is_finished, state_metadata, state_steps
from craft_lora_pack.craft_core.training.recipes.lora import LoraRecipe
from safetensors import safe_open
from safetensors.torch import load_file
from small_world_models import load
from trainings import NO_MEMORY, train_lora

KNOBS = {"rank": 2, "steps": 3, "batch_size": 1, "learning_rate": 1e-2, "warmup": 0}


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return load()


def learn(
    world,
    name,
    watch=lambda training: None,
    resume=False,
    warn=None,
    kept=lambda left: None,
    **knobs,
):  # fmt: skip
    source = ModelParts(world.model, world.clip, world.vae)
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    how = How(name, resume, "fp32", warn=warn or (lambda text: None), kept=kept)
    with torch.inference_mode():
        return train_lora(
            source, Captioned([image], ["a cat"]), None, "content", "content: middle_block",
            {**KNOBS, **knobs}, how, watch,
        )  # fmt: skip


def place_of(name):
    return save_place(name, "loras", "content")


def steps_in(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return file.metadata()["steps_done"]


@contextmanager
def no_file_larger_than(size: int):
    """A disk with so much room, and no more, for each file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def room(world):
    """More than a result takes, and less than a state."""
    done = learn(world, "states/sizes")
    state = place_of("states/sizes").state
    size = done.path.stat().st_size
    assert 2 * size < state.stat().st_size
    return size + 1000


def test_a_finished_training_is_kept_where_the_disk_lacks_room_for_its_state(world, room):
    said: list[str] = []
    with no_file_larger_than(room):
        done = learn(world, "states/full", warn=said.append)
    assert steps_in(done.path) == "3"
    assert not place_of("states/full").state.exists()
    (line,) = [line for line in done.report.splitlines() if "was not saved" in line]
    assert said == [line] and "cannot be resumed" in line


@pytest.mark.parametrize("stop", [KeyboardInterrupt, "host's"])
def test_an_interrupted_training_keeps_its_result_where_the_state_finds_no_room(world, room, stop):
    kind = comfy.model_management.InterruptProcessingException if stop == "host's" else stop
    name = f"states/stopped_{kind.__name__}"
    place = place_of(name)

    def watch(training):
        if training.step == 2:
            raise kind

    with no_file_larger_than(room), pytest.raises(kind):
        learn(world, name, watch)
    assert steps_in(place.path) == "2" and not place.state.exists()


def test_a_save_while_it_runs_never_ends_a_training(world, room, monkeypatch):
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    said: list[str] = []
    with no_file_larger_than(room):
        done = learn(world, "states/every_step", warn=said.append, steps=4)
    assert steps_in(done.path) == "4" and len(said) == 5


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), MemoryError(), RuntimeError("alloc")])
def test_no_failure_of_a_state_ends_a_training(world, monkeypatch, error):
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)

    def fails(*_given, **_more):
        raise error

    monkeypatch.setattr(Training, "save", fails)
    name = f"states/{type(error).__name__}"
    done = learn(world, name)
    assert steps_in(done.path) == "3" and "was not saved" in done.report


def test_a_state_that_failed_once_and_is_saved_later_is_not_reported(world, monkeypatch):
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    save, failed = Training.save, []

    def fails_once(training, *given, **more):
        if not failed:
            failed.append(True)
            raise CraftError("No room", "Room", "Make some")
        save(training, *given, **more)

    monkeypatch.setattr(Training, "save", fails_once)
    done = learn(world, "states/once")
    assert failed and "was not saved" not in done.report
    assert place_of("states/once").state.is_file()


def test_a_result_without_room_leaves_the_state_and_says_so(world, monkeypatch):
    def full(*_given):
        raise CraftError("No room", "Room", "Make some")

    monkeypatch.setattr(Training, "write", full)
    with pytest.raises(CraftError, match="what was learned is in .*: resume it"):
        learn(world, "states/no_result")
    monkeypatch.undo()
    done = learn(world, "states/no_result", resume=True)
    assert "3 of them resumed" in done.report and steps_in(done.path) == "3"


@pytest.mark.skipif(
    pretend_device.is_asked_for(),
    reason="on a device the inner one moves the outer one's model off",
)
def test_trainings_of_one_name_that_run_together_lose_no_result_and_no_state(world, monkeypatch):
    """The second runs and ends inside the first, which has saved its state before."""
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    name, inner = "states/together", []

    def watch(training):
        if training.step == 2 and not inner:
            inner.append(learn(world, name, steps=5))

    outer = learn(world, name, watch)
    assert outer.path != inner[0].path
    assert (steps_in(outer.path), steps_in(inner[0].path)) == ("3", "5")
    assert "resume it under the name together_2" in outer.report
    for own, steps in ((f"{name}_2", 3), (name, 5)):
        again = learn(world, own, resume=True, steps=steps)
        assert f"{steps} of them resumed" in again.report


def test_two_that_end_at_once_take_different_names(world, monkeypatch):
    """Another file comes between the look and the write."""
    name, write = "states/at_once", Training.write
    place, came = place_of(name), []

    def late(training, path, metadata):
        if not came:
            came.append(path)
            path.write_bytes(b"another's")
        write(training, path, metadata)

    monkeypatch.setattr(Training, "write", late)
    done = learn(world, name)
    assert came == [place.path] and place.path.read_bytes() == b"another's"
    assert done.path != place.path and steps_in(done.path) == "3"


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "a/" + "é" * 150, "a\nb", " ", "/a", "../a"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(CraftError, match="save_as"):
        save_place(name, "loras")


def test_a_folder_that_cannot_be_made_is_one_clear_sentence():
    place = place_of("states/file_in_the_way")
    place.path.parent.joinpath("in_the_way").write_bytes(b"")
    with pytest.raises(CraftError, match="Nothing can be saved in"):
        save_place("states/in_the_way/a", "loras")


@pytest.fixture
def on_windows(monkeypatch):
    monkeypatch.setattr(run, "Path", PureWindowsPath)
    monkeypatch.setattr(run, "_WINDOWS", True)


@pytest.mark.parametrize(
    "name",
    ["ink: 2", "what?", "a|b", "con", "craft/NUL", "craft\\com1.x", "/dog", "\\dog", "C:dog",
     "C:\\dog", "..\\dog", "craft /dog", " /dog", "craft./dog", "craft/dog.", "craft \\dog", "...",
     ".. /dog", " \\dog", " C:dog", "  /dog", "\t/dog"],
)  # fmt: skip
def test_on_windows_a_name_that_no_file_has_is_refused_before_anything_is_learned(on_windows, name):
    with pytest.raises(CraftError, match="save_as"):
        run.require_name(name)


@pytest.mark.parametrize(
    "name", ["craft/dog", "craft\\dog", "ink 2", "猫", "console", "dog.con", " ink. 2/a.b"]
)
def test_on_windows_other_names_are_taken(on_windows, name):
    run.require_name(name)


def test_elsewhere_a_training_may_have_any_name_that_a_file_has():
    for name in ("ink: 2", "what?", "con", "craft/dog", "craft /dog", "craft./dog."):
        run.require_name(name)
    for name in ("/dog", " /dog"):
        with pytest.raises(CraftError, match="save_as"):
            run.require_name(name)


def states_of(name: str) -> dict[str, int]:
    """What is kept of the trainings of a name: the steps of each state, by its file's name."""
    place = place_of(name)
    beginning = place.state.name.split(".")[0]
    return {path.name: state_steps(path) for path in place.state.parent.iterdir()
            if path.name.startswith(beginning)}  # fmt: skip


class Stopped(BaseException):
    """A training that ends without a word, as one that is killed: nothing is saved then."""


def begun(world, name, steps, inside=lambda: None):
    """A training that saves its first step, does what is inside, and ends there."""

    def watch(training):
        if training.step == 2:
            inside()
            raise Stopped

    with pytest.raises(Stopped):
        learn(world, name, watch, steps=steps)


@pytest.mark.skipif(
    pretend_device.is_asked_for(),
    reason="on a device the inner one moves the outer one's model off",
)
def test_no_start_loses_the_state_of_a_training_that_runs(world, monkeypatch):
    """Three of one name, each begun inside the one before; all end without saving again."""
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    name = "states/three"
    begun(world, name, 7, lambda: begun(world, name, 6, lambda: learn(world, name, steps=5)))
    kept = states_of(name)
    assert sorted(kept.values()) == [1, 1, 5]
    asked = {state_metadata(place_of(name).state.with_name(one))["steps_asked"] for one in kept}
    assert asked == {"7", "6", "5"}


def test_states_that_are_not_finished_pile_up_under_names_of_their_own(world, monkeypatch):
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    name = "states/piled"
    for _ in range(3):
        begun(world, name, 6)
    assert states_of(name) == {
        "piled.content.safetensors": 1,
        "piled.content.previous.safetensors": 1,
        "piled.content.previous_2.safetensors": 1,
    }


def test_of_finished_trainings_one_state_is_kept_beside_the_last(world):
    name = "states/finished"
    for steps in (3, 4, 5):
        learn(world, name, steps=steps)
    assert states_of(name) == {
        "finished.content.safetensors": 5,
        "finished.content.previous.safetensors": 4,
    }


def test_a_finished_training_that_goes_on_is_not_finished_any_more(world, monkeypatch):
    name = "states/goes_on"
    learn(world, name, steps=3)
    with pytest.raises(Stopped):
        learn(world, name, lambda training: raises(Stopped), resume=True, steps=9)
    assert not is_finished(place_of(name).state)
    learn(world, name, steps=3)
    learn(world, name, steps=4)
    learn(world, name, steps=4)
    assert sorted(states_of(name).values()) == [3, 4, 4]


def raises(error):
    raise error


def test_a_name_that_is_taken_while_a_state_is_written_is_not_written_over(world, monkeypatch):
    """Another training sets the state aside and takes its name after this one has looked."""
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    name, save, came = "states/between", Training.save, []
    state = place_of(name).state

    def late(training, path, *given, over=lambda: True, **more):
        if path == state and state.is_file() and not came:
            came.append(True)
            state.rename(state.with_name("between.content.previous.safetensors"))
            state.write_bytes(b"another's")
        save(training, path, *given, over=over, **more)

    monkeypatch.setattr(Training, "save", late)
    learn(world, name)
    assert came and state.read_bytes() == b"another's"
    assert sorted(path.name for path in state.parent.glob("between*")) == [
        "between.content.safetensors", "between_2.content.safetensors",
    ]  # fmt: skip


ENDINGS = {
    **{f"no memory {when}": make() for when, make in NO_MEMORY.items()},
    "device": RuntimeError("the device does not answer"),
    "other": KeyError("sigmas"),
    "not finite": None,
}


def failing_at(monkeypatch, step, error):
    """The backward pass of the step after that one fails, or gives an infinite loss."""
    backward = LoraRecipe.backward

    def fails(recipe, draw, share):
        if draw.step != step:
            return backward(recipe, draw, share)
        if error is not None:
            raise error
        return {"loss": float("inf")}

    monkeypatch.setattr(LoraRecipe, "backward", fails)


def left_by(name, kind=Exception):
    """(the error of a training, what it told to be kept)"""
    kept: list[StoppedTraining] = []
    with pytest.raises(kind) as raised:
        learn(load(), name, kept=kept.append)
    return raised.value, kept


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_error_keeps_what_was_learned_says_so_and_stays_of_its_kind(ending, world, monkeypatch):
    name, error = f"states/error_{ending.replace(' ', '_')}", ENDINGS[ending]
    expected = learn(world, f"{name}_whole")
    failing_at(monkeypatch, 2, error)
    clear, cleared = traceback.clear_frames, []
    monkeypatch.setattr(traceback, "clear_frames", lambda one: (cleared.append(one), clear(one)))
    raised, (kept,) = left_by(name)
    monkeypatch.undo()
    assert raised is error or isinstance(raised, CraftError) and error is None
    assert comfy.model_management.is_oom(raised) == (ending in ("no memory now", "no memory later"))
    assert bool(cleared) == ending.startswith("no memory"), "what the step computed is let go of"
    path = Path(folder_paths.get_output_directory()) / kept.file
    assert steps_in(path) == "2" and (kept.step, kept.resume) == (2, name)
    assert ending == "other" or str(kept) in str(raised)
    done = learn(world, name, resume=True)
    assert "2 of them resumed" in done.report
    assert load_file(done.path).keys() == load_file(expected.path).keys()
    assert done.losses == expected.losses


def test_an_error_before_anything_was_learned_keeps_nothing_and_its_words(world, monkeypatch):
    failing_at(monkeypatch, 0, RuntimeError("no"))
    raised, kept = left_by("states/error_at_first", RuntimeError)
    place = place_of("states/error_at_first")
    assert str(raised) == "no" and kept == [] and not place.state.exists()
    assert not list(place.path.parent.glob("error_at_first*"))


def test_an_error_that_finds_no_room_for_a_state_is_raised_as_it_was(world, monkeypatch):
    failing_at(monkeypatch, 2, RuntimeError("no"))

    def full(*_given, **_more):
        raise OSError(28, "no room")

    monkeypatch.setattr(Training, "save", full)
    monkeypatch.setattr(Training, "write", full)
    raised, kept = left_by("states/error_full", RuntimeError)
    assert str(raised) == "no" and kept == []


def test_parameters_between_two_steps_are_no_state(world, monkeypatch):
    """Memory that runs out while the optimiser moves some of them."""
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    step = torch.optim.AdamW.step
    count = [0]

    def torn(optimiser, *given):
        count[0] += 1
        if count[0] == 3:
            optimiser.param_groups[0]["params"][0].data.add_(1.0)
            raise torch.OutOfMemoryError("Allocation on device")
        return step(optimiser, *given)

    # As torch wraps it when an optimiser is made.
    monkeypatch.setattr(torch.optim.AdamW, "step", torch.optim.Optimizer.profile_hook_step(torn))
    _, (kept,) = left_by("states/torn", torch.OutOfMemoryError)
    monkeypatch.undo()
    assert kept.earlier and kept.resume == "states/torn"
    state = load_file(place_of("states/torn").state)
    assert len(state["losses"]) == 2 and all(one.isfinite().all() for one in state.values())
    done, whole = learn(world, "states/torn", resume=True), learn(world, "states/torn_whole")
    assert done.losses == whole.losses


def test_a_state_is_saved_from_the_cpu_after_an_error(world, monkeypatch):
    failing_at(monkeypatch, 2, torch.OutOfMemoryError("Allocation on device"))
    save, devices = Training.save, set()

    def watched(training, *given, **more):
        devices.update(one.device.type for one in training.parameters.values())
        for moments in training.optimiser.state.values():
            devices.update(one.device.type for one in moments.values())
        save(training, *given, **more)

    monkeypatch.setattr(Training, "save", watched)
    left_by("states/from_the_cpu", torch.OutOfMemoryError)
    assert devices == {"cpu"}
