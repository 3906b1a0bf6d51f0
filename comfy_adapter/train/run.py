"""Run a Training under the host: progress, live loss plot, interrupt, saved files, resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths

from ...craft_core.errors import CraftError
from ...craft_core.training import StepCallback, Training
from ..draw.pictures import loss_picture
from .precision import Precision

STATES = "craft_training"  # in the output folder: what a stopped training goes on from
PLOT_SECONDS = 2.0
SAVE_SECONDS = 300.0

log = logging.getLogger("craft")


@dataclass(frozen=True)
class SavePlace:
    """Where a training saves. name: as the host lists the file in its folder kind."""

    path: Path
    name: str
    state: Path
    again: Callable[[], SavePlace]

    def free(self) -> SavePlace:
        """This place, or the next one where another training took it meanwhile."""
        return self.again() if self.path.exists() else self


def save_place(prefix: str, folder: str, part: str = "") -> SavePlace:
    """A new file output/<folder>/<prefix>_00001_.safetensors, and its state's place.

    As the host's own save nodes do: counted up, never over an existing file, never outside.
    part: tells states apart whose trainings may share a name.
    """
    root = Path(folder_paths.get_output_directory()) / folder
    folder_paths.add_model_folder_path(folder, str(root))  # the host itself does, for its own
    require_name(prefix)
    found = folder_paths.get_save_image_path(prefix, str(root))
    directory, filename, counter, subfolder, _ = found
    path = Path(directory) / f"{filename}_{counter:05}_.safetensors"
    state = Path(folder_paths.get_output_directory()) / STATES / folder / subfolder
    name = str(Path(subfolder) / path.name)
    stem = f"{filename}.{part}" if part else filename
    return SavePlace(
        path, name, state / f"{stem}.safetensors", lambda: save_place(prefix, folder, part)
    )


def require_name(prefix: str) -> None:
    parts = Path(prefix.strip()).parts
    if not prefix.strip() or Path(prefix).is_absolute() or ".." in parts:
        raise CraftError(
            f"save_as = {prefix!r}",
            "Results are saved inside the output folder, under a name such as craft/dog",
            "Write a name without '..' that does not begin with a slash",
        )


@dataclass(frozen=True)
class TrainingOutcome:
    """Where the result is, and how it went in a few lines."""

    place: SavePlace
    report: str


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the partial result and the state were saved at `place`."""

    def __init__(self, place: SavePlace) -> None:
        super().__init__()
        self.place = place


def run_training(
    training: Training, place: SavePlace, resume: bool, precision: Precision, watch: StepCallback
) -> TrainingOutcome:
    """Train to the end and save.

    An interrupt saves the partial result and the state first, then goes on up as it is if it is the
    host's own, and as Interrupted if it is Ctrl-C.
    The state is also saved every few minutes; that of an earlier training of the name, where it
    is not resumed, is kept as .previous. CraftError: no result was written.
    """
    resumed = resume and place.state.is_file()
    if resumed:
        training.resume(place.state)
    elif place.state.is_file():
        place.state.replace(place.state.with_suffix(f".previous{place.state.suffix}"))
    began, first = time.monotonic(), training.step
    saved = began

    def after_step(under_way: Training) -> None:
        nonlocal saved
        watch(under_way)
        if time.monotonic() - saved > SAVE_SECONDS:
            _save_state(under_way, place, precision)
            saved = time.monotonic()

    try:
        training.run(after_step)
    except (comfy.model_management.InterruptProcessingException, KeyboardInterrupt) as interrupt:
        if training.step > 0:
            _save_state(training, place, precision)
            place = _write(training, place, precision)
            if isinstance(interrupt, KeyboardInterrupt):
                raise Interrupted(place) from interrupt
        raise
    _save_state(training, place, precision)
    place = _write(training, place, precision)
    seconds = time.monotonic() - began
    lines = _report(training, place, first, seconds)
    lines.append(f"Precision: {precision.name}, {precision.why}")
    if resume and not resumed:
        lines.append("There was nothing to resume; it began afresh.")
    return TrainingOutcome(place, "\n".join(lines))


def _save_state(training: Training, place: SavePlace, precision: Precision) -> None:
    place.state.parent.mkdir(parents=True, exist_ok=True)
    training.save(place.state, {"precision": precision.name})


def _write(training: Training, place: SavePlace, precision: Precision) -> SavePlace:
    place = place.free()
    place.path.parent.mkdir(parents=True, exist_ok=True)
    training.write(place.path, {"precision": precision.name})
    return place


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
    """The node's progress bar with the loss curve as its preview; stops when the user does."""

    def __init__(self, steps: int, tell: Callable[[str], None]) -> None:
        self._bar, self._tell, self._plotted = comfy.utils.ProgressBar(steps), tell, 0.0
        self._warning = ""

    def warn(self, text: str) -> None:
        """Show it above what is shown while the training runs, and log it."""
        log.warning(text)
        self._warning = f"{text}\n"
        self._tell(text)

    def __call__(self, training: Training) -> None:
        now, last = time.monotonic(), training.step == training.pace.steps
        preview: Any = None
        if now - self._plotted > PLOT_SECONDS or last:
            self._plotted = now
            preview = ("JPEG", loss_picture(training.losses, training.pace.steps), 640)
            self._tell(f"{self._warning}step {training.step} of {training.pace.steps}, "
                       f"loss {training.losses[-1]:.4f}")  # fmt: skip
        self._bar.update_absolute(training.step, training.pace.steps, preview)
        comfy.model_management.throw_exception_if_processing_interrupted()
