"""Run a Training under the host: progress, live loss plot, interrupt, saved files, resume."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...client.loras.file_names import fits_windows
from ...craft_core.errors import CraftError, lacks_memory
from ...craft_core.training import StepCallback, Training
from ...craft_core.writing import Taken
from ..draw.pictures import loss_picture, side_by_side
from .precision import Precision
from .state import FAILURES, StateFile

STATES = "craft_training"  # in the output folder: what a stopped training goes on from
PLOT_SECONDS = 2.0
SAVE_SECONDS = 300.0
_WINDOWS = os.name == "nt"
_LONGEST = 200  # bytes of a name; file systems take 255, and number and ending come behind it

log = logging.getLogger("craft")


@dataclass(frozen=True)
class SavePlace:
    """Where a training saves. name: as the host lists the file in its folder kind. part: tells
    states apart whose trainings may share a name."""

    path: Path
    name: str
    state: Path
    again: Callable[[], SavePlace]
    part: str = ""

    def free(self) -> SavePlace:
        """This place, or the next one where another training took it meanwhile."""
        return self.again() if self.path.exists() else self


def save_place(prefix: str, folder: str, part: str = "") -> SavePlace:
    """A new file output/<folder>/<prefix>_00001_.safetensors, and its state's place.

    As the host's own save nodes do: counted up, never over an existing file, never outside.
    part: as in SavePlace. CraftError for a name that cannot be one.
    """
    root = Path(folder_paths.get_output_directory()) / folder
    folder_paths.add_model_folder_path(folder, str(root))  # the host itself does, for its own
    require_name(prefix)
    try:
        found = folder_paths.get_save_image_path(prefix, str(root))
    except (OSError, ValueError) as error:
        raise _no_place(root, error) from error
    directory, filename, counter, subfolder, _ = found
    path = Path(directory) / f"{filename}_{counter:05}_.safetensors"
    name = str(Path(subfolder) / path.name)
    state = _state_path(folder, subfolder, filename, part)
    return SavePlace(path, name, state, lambda: save_place(prefix, folder, part), part)


def kept_state(prefix: str, folder: str, part: str) -> tuple[str, Path]:
    """(the name to go on under, where its state is if there is one) of a training that save_place
    gives a place. Nothing is made in the output folder. CraftError for a name that cannot be one.
    """
    require_name(prefix)
    with TemporaryDirectory() as elsewhere:  # the host makes the folder of a name that it is asked
        try:
            found = folder_paths.get_save_image_path(prefix, elsewhere)
        except (OSError, ValueError) as error:
            raise _no_place(Path(prefix).parent, error) from error
    _, filename, _, subfolder, _ = found
    name = (Path(subfolder) / filename).as_posix()
    return name, _state_path(folder, subfolder, filename, part)


def _state_path(folder: str, subfolder: str, filename: str, part: str) -> Path:
    stem = f"{filename}.{part}" if part else filename
    states = Path(folder_paths.get_output_directory()) / STATES / folder / subfolder
    return states / f"{stem}.safetensors"


def write_new(place: SavePlace, write: Callable[[Path], None]) -> SavePlace:
    """`write` to the place, or to the next one that is free; where it went. write: never replaces
    a file, but raises Taken."""
    while True:
        place = place.free()
        try:
            place.path.parent.mkdir(parents=True, exist_ok=True)
            write(place.path)
        except Taken:  # another run was faster
            continue
        except OSError as error:
            raise _no_place(place.path.parent, error) from error
        return place


def _no_place(folder: Path, error: Exception) -> CraftError:
    return CraftError(
        f"Nothing can be saved in {folder} ({getattr(error, 'strerror', None) or error})",
        "Results are saved into a folder of the output directory with room and write permission",
        "Check the folder and the disk, or choose another name",
    )


def require_name(prefix: str) -> None:
    """CraftError for a name that no file inside the output folder can have."""
    path = Path(prefix.strip())
    parts = path.parts
    plain = prefix.isprintable() and all(len(part.encode()) <= _LONGEST for part in parts)
    if not plain or not prefix.strip() or path.anchor or ".." in parts:
        raise CraftError(
            f"save_as = {prefix[:100]!r}",
            "Results are saved inside the output folder, under a name such as craft/dog",
            "Write a name without '..' that does not begin with a slash, of plain characters and "
            f"of up to {_LONGEST} bytes between two slashes",
        )
    if _WINDOWS and not all(map(fits_windows, parts)):  # it would show when all is learned
        raise CraftError(
            f"save_as = {prefix[:100]!r}",
            'Windows takes no name with : < > " | ? or *, none that ends in a space or a dot, and '
            "none of a device, such as con",
            "Choose another name",
        )


@dataclass(frozen=True)
class TrainingOutcome:
    """Where the result is, and how it went in a few lines."""

    place: SavePlace
    report: str


@dataclass(frozen=True)
class StoppedTraining:
    """What a training left that an interrupt or an error ended. file: in the output folder; ""
    where none could be written. resume: the save_name under which it goes on; "" where its state
    was not saved. earlier: whether it goes on from a step before, as the last state could not be
    saved."""

    file: str
    step: int
    steps: int
    resume: str
    earlier: bool = False

    def __str__(self) -> str:
        there = "an earlier step" if self.earlier else "there"
        on = f"Resume goes on from {there}." if self.resume else "It cannot be resumed."
        if not self.file:
            return f"Stopped after step {self.step} of {self.steps}. {on}"
        text = f"Stopped after step {self.step} of {self.steps}. Kept: output/{self.file}"
        return f"{text}, which loads like a whole one. {on}"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the partial result and the state were saved at `place`."""

    def __init__(self, place: SavePlace) -> None:
        super().__init__()
        self.place = place


def run_training(
    training: Training,
    place: SavePlace,
    resume: bool,
    precision: Precision,
    watch: StepCallback,
    warn: Callable[[str], None] = log.warning,
    kept: Callable[[StoppedTraining], None] = lambda kept: None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> TrainingOutcome:
    """Train to the end and save: the result first, then the state to go on from.

    An interrupt saves both first and tells kept of them, then goes on up as it is if it is the
    host's own, and as Interrupted if it is Ctrl-C. An error does so too, as far as they can be
    saved, and goes on up as it is, with what is kept in its words.
    The state is also saved every few minutes; that of an earlier training of the name, where it
    is not resumed, is kept as StateFile.set_aside says. metadata: further entries of both. A state
    that cannot be saved is a warning (warn, and a line of the report). CraftError: no result was
    written.
    """
    state = StateFile(place.state, place.part, warn)
    told = {**metadata, "precision": precision.name}
    resumed = resume and place.state.is_file()
    if resumed:
        state.resume(training)
        if training.step < training.pace.steps and state.is_of_an_end():
            state.save(training, told)  # it is no training's that had all its steps any more
    else:
        state.set_aside()
    began, first = time.monotonic(), training.step
    saved = began

    def after_step(under_way: Training) -> None:
        nonlocal saved
        watch(under_way)
        if time.monotonic() - saved > SAVE_SECONDS:
            state.save(under_way, told)
            saved = time.monotonic()

    moves = _Moves(training.optimiser)
    try:
        training.run(after_step)
    except (comfy.model_management.InterruptProcessingException, KeyboardInterrupt) as interrupt:
        if training.step > 0:
            place = _keep(training, place, state, told)
            kept(_kept(training, place, state))
            if isinstance(interrupt, KeyboardInterrupt):
                raise Interrupted(place) from interrupt
        raise
    except Exception as error:  # whatever it is: what was learned is kept, and it goes on
        if training.step > first:
            left = _rescued(error, training, place, state, told, moves.under_way)
            if left is not None:
                kept(left)
                _say(error, str(left))
        raise
    place = _keep(training, place, state, told)
    seconds = time.monotonic() - began
    lines = _report(training, place, first, seconds)
    lines.append(f"Precision: {precision.name}, {precision.why}")
    if resume and not resumed:
        lines.append("There was nothing to resume; it began afresh.")
    return TrainingOutcome(place, "\n".join([*lines, *state.notes]))


def _keep(
    training: Training, place: SavePlace, state: StateFile, told: Mapping[str, str]
) -> SavePlace:
    """Save the result, then the state; where they are. A result that cannot be written is an error,
    once the state is saved."""
    try:
        place = write_new(place, lambda path: training.write(path, told))
    except FAILURES as error:
        if not (state.save(training, told) and isinstance(error, CraftError)):
            raise
        action = f"{error.action.rstrip('.')}; what was learned is in {state.path.name}: resume it"
        raise CraftError(error.given, error.possible, action) from error
    state.save(training, told)
    return replace(place, state=state.path)


def _kept(training: Training, place: SavePlace, state: StateFile) -> StoppedTraining:
    file = place.path.relative_to(folder_paths.get_output_directory())
    name = Path(place.name).with_name(state.name).as_posix()
    resume, steps = name if state.holds else "", training.pace.steps
    return StoppedTraining(file.as_posix(), training.step, steps, resume, state.is_behind)


class _Moves:
    """Whether the optimiser is moving the parameters: what they are then is of no step."""

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        self.under_way = False
        optimiser.register_step_pre_hook(lambda *_: self._set(True))
        optimiser.register_step_post_hook(lambda *_: self._set(False))

    def _set(self, under_way: bool) -> None:
        self.under_way = under_way


def lacks_room(error: Exception) -> bool:
    """Whether memory ran out, in the kinds that the host knows, or as torch says it of a device of
    which the host does not: a Mac's."""
    return comfy.model_management.is_oom(error) or lacks_memory(error)


def _rescued(
    error: Exception, training: Training, place: SavePlace, state: StateFile,
    told: Mapping[str, str], torn: bool,
) -> StoppedTraining | None:  # fmt: skip
    """Save the state and what was learned before an error, the state on the CPU: the device may
    have no memory left, and no answer. What is kept; None for nothing. torn: see _Moves."""
    if lacks_room(error):
        traceback.clear_frames(error.__traceback__)  # they hold what the step computed
        comfy.model_management.soft_empty_cache()
    written = False
    with suppress(*FAILURES):
        training.optimiser.zero_grad(set_to_none=True)
        if not torn:
            with _on_cpu(training):
                state.save(training, told)
        place = write_new(place, lambda path: training.write(path, told))
        written = True
    if not (written or state.holds):
        return None
    left = _kept(training, place, state)
    left = left if written else replace(left, file="")
    return replace(left, earlier=True) if torn else left


@contextmanager
def _on_cpu(training: Training) -> Iterator[None]:
    """The training with copies on the CPU of what its state is made of."""
    parameters, moments = training.parameters, dict(training.optimiser.state)
    training.parameters = {name: one.detach().cpu() for name, one in parameters.items()}
    training.optimiser.state.clear()
    for name, value in parameters.items():
        if value in moments:
            own = {key: torch.as_tensor(one).cpu() for key, one in moments[value].items()}
            training.optimiser.state[training.parameters[name]] = own
    try:
        yield
    finally:
        training.parameters = parameters
        training.optimiser.state.clear()
        training.optimiser.state.update(moments)


def _say(error: Exception, kept: str) -> None:
    """Tell what is kept in the words of an error, whose kind others ask for."""
    if isinstance(error, CraftError):
        said = CraftError(f"{error.given.rstrip('.')}. {kept}", error.possible, error.action)
        error.given, error.args = said.given, said.args
        return
    error.kept = kept  # type: ignore[attr-defined]
    if error.args and str(error) == error.args[0]:
        error.args = (f"{error.args[0]}\n{kept}", *error.args[1:])


def _report(training: Training, place: SavePlace, first: int, seconds: float) -> list[str]:
    done = training.step - first
    lines = [
        f"Saved {place.path.name}: {training.step} steps"
        + (f", {first} of them resumed" if first else "")
        + (f"; {1000 * seconds / done:.0f} ms a step" if done else "")
    ]
    if training.losses:
        tenth = max(1, len(training.losses) // 10)
        begin, end = training.losses[:tenth], training.losses[-tenth:]
        lines.append(f"Loss, mean of the first and of the last tenth: {sum(begin) / len(begin):.4f}"
                     f", {sum(end) / len(end):.4f}")  # fmt: skip
    if training.terms:
        terms = ", ".join(f"{name} {value:.4f}" for name, value in training.terms.items())
        lines.append(f"Last step: {terms}")
    warmup, steps = training.pace.warmup, training.pace.steps
    if warmup >= steps > 0:
        lines.append(f"The warm-up of {warmup} steps is as long as the training: the learning rate "
                     f"never rose to {training.pace.rate:g}.")  # fmt: skip
    return lines


class PageWatch:
    """The node's progress bar with the loss curve as its preview; stops when the user does.

    tell: shows a text on the node; with resume, the save_name for the page to go on under.
    """

    def __init__(self, steps: int, tell: Callable[..., None]) -> None:
        self._bar, self._tell, self._plotted = comfy.utils.ProgressBar(steps), tell, 0.0
        self._warning = ""
        self._first: tuple[float, int] | None = None  # when the first step ended, and its number
        self._sample: Tensor | None = None

    def warn(self, text: str) -> None:
        """Show it above what is shown while the training runs, and log it."""
        log.warning(text)
        self._warning = f"{text}\n"
        self._tell(text)

    def sample(self, picture: Tensor) -> None:
        """Show it beside the loss from now on. picture: (height, width, 3) in [0, 1]."""
        self._sample, self._plotted = picture, 0.0

    def _picture(self, training: Training) -> Any:
        curve = loss_picture(training.losses, training.pace.steps)
        return curve if self._sample is None else side_by_side(curve, self._sample)

    def kept(self, kept: StoppedTraining) -> None:
        """Show what a training left, and whether it can go on."""
        self._tell(f"{self._warning}{kept}", resume=kept.resume)

    def __call__(self, training: Training) -> None:
        now, last = time.monotonic(), training.step == training.pace.steps
        preview: Any = None
        if now - self._plotted > PLOT_SECONDS or last:
            self._plotted = now
            preview = ("JPEG", self._picture(training), 1000)
            said = f"step {training.step} of {training.pace.steps}, loss {training.losses[-1]:.4f}"
            self._tell(f"{self._warning}{said}{self._left(now, training)}")
        self._bar.update_absolute(training.step, training.pace.steps, preview)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def _left(self, now: float, training: Training) -> str:
        """ ", about 2 min left", by the mean of the steps since the first, which may be slower."""
        if self._first is None:
            self._first = now, training.step
        began, first = self._first
        more = training.pace.steps - training.step
        if not more or training.step == first:
            return ""
        return f", about {duration((now - began) / (training.step - first) * more)} left"


def duration(seconds: float) -> str:
    """In words, as exact as an estimate is."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
