"""The state of a training under way: saved while it runs, without ever ending it or taking the
place of another training's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ...craft_core.errors import CraftError
from ...craft_core.training import Training
from ...craft_core.training.loop import is_finished
from ...craft_core.writing import Taken, move_new, remove_only

FAILURES = (CraftError, OSError, MemoryError, RuntimeError)  # the last: torch has no memory
_MOST_NAMES = 10_000


class StateFile:
    """Where a training saves what it goes on from: `path`, once saved.

    part: what tells states of one name apart, at the end of the file's stem. warn: told what could
    not be saved, and why.
    """

    def __init__(self, path: Path, part: str, warn: Callable[[str], None]) -> None:
        self.path, self._wanted, self._part, self._warn = path, path, part, warn
        self._own: tuple[int, ...] | None = None
        self._notes: dict[str, str] = {}

    @property
    def notes(self) -> list[str]:
        """Report lines on what is otherwise than asked for."""
        return list(self._notes.values())

    @property
    def name(self) -> str:
        """The name, without its folder, under which what is saved is resumed."""
        return self._name(0)

    @property
    def holds(self) -> bool:
        """Whether the file has this training, of now or of an earlier step."""
        return self._own is not None and _stamp(self.path) == self._own

    @property
    def is_behind(self) -> bool:
        """Whether the last step that was to be saved is not in the file."""
        return "failed" in self._notes

    def resume(self, training: Training) -> None:
        """Go on from the file. CraftError as Training.resume."""
        own = _stamp(self.path)
        training.resume(self.path)
        self._own = own

    def is_of_an_end(self) -> bool:
        """Whether the file is of a training that had all its steps."""
        return is_finished(self.path)

    def set_aside(self) -> None:
        """Keep an earlier training's state as .previous, .previous_2, ...: a name that no file has,
        as the training may be running, or may be resumed. Of trainings that had all their steps,
        whose results are there, one state is kept so."""
        stamp = _stamp(self.path)
        if stamp is None:
            return
        try:
            if is_finished(self.path):
                for path, found in self._set_aside():
                    if is_finished(path):
                        remove_only(path, lambda path=path, found=found: _stamp(path) == found)
            for number in range(1, _MOST_NAMES):
                with suppress(FileExistsError):
                    move_new(self.path, self._previous(number))
                    return
        except FileNotFoundError:
            pass
        except OSError as error:
            self._tell("aside", f"{self.path.name} cannot be renamed ({error.strerror}) and stays")

    def _previous(self, number: int) -> Path:
        behind = "" if number == 1 else f"_{number}"
        return self._wanted.with_suffix(f".previous{behind}{self._wanted.suffix}")

    def _set_aside(self) -> list[tuple[Path, tuple[int, ...]]]:
        """The states that are kept as .previous, and what tells that they are still the same."""
        beginning = f"{self._wanted.stem}.previous"
        paths = [one for one in self._wanted.parent.iterdir() if one.name.startswith(beginning)]
        stamps = [(path, _stamp(path)) for path in paths if path.suffix == self._wanted.suffix]
        return [(path, stamp) for path, stamp in stamps if stamp is not None]

    def save(self, training: Training, metadata: Mapping[str, str]) -> bool:
        """Save the training as it is now; whether that went well. What was saved before stays until
        the new state is whole."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(training, metadata)
        except FAILURES as error:
            self._tell(
                "failed",
                f"The training's state after step {training.step} was not saved: "
                f"{' '.join(str(error).split())[:500] or type(error).__name__} Without it the "
                "training cannot be resumed from there",
            )
            return False
        self._notes.pop("failed", None)
        return True

    def _write(self, training: Training, metadata: Mapping[str, str]) -> None:
        earlier = self._own
        if not self._saved_over(training, metadata):
            self.path = self._taken(training, metadata)
            if self.path != self._wanted:
                self._tell(
                    "name",
                    f"Another training has the name {self._name(1)} at the same time. This one's "
                    f"state is {self.path.name}; resume it under the name {self._name(0)}",
                )
        self._own = _stamp(self.path)
        if earlier is not None:
            self._remove_earlier(earlier)

    def _saved_over(self, training: Training, metadata: Mapping[str, str]) -> bool:
        """Save over this training's own state; whether it was there until the new one was whole."""
        if not self.holds:
            return False
        try:
            training.save(self.path, metadata, over=lambda: self.holds)
        except Taken:
            return False
        return True

    def _remove_earlier(self, own: tuple[int, ...]) -> None:
        """Remove what another training set aside of this one, which is saved anew."""
        with suppress(OSError):
            for path, found in self._set_aside():
                if found == own:
                    remove_only(path, lambda path=path: _stamp(path) == own)

    def _taken(self, training: Training, metadata: Mapping[str, str]) -> Path:
        """The first of dog, dog_2, dog_3, ... that was free, written to."""
        for number in itertools.count(1):
            path = self._numbered(number)
            try:
                training.save(path, metadata, exclusive=True)
            except Taken:
                if number < _MOST_NAMES:
                    continue
                raise
            return path
        raise AssertionError("counting does not end")

    def _numbered(self, number: int) -> Path:
        if number == 1:
            return self._wanted
        ending = f".{self._part}" if self._part else ""
        stem = self._wanted.stem.removesuffix(ending)
        return self._wanted.with_name(f"{stem}_{number}{ending}{self._wanted.suffix}")

    def _name(self, number: int) -> str:
        """The name under which the state is resumed; of the present path for 0."""
        path = self._numbered(number) if number else self.path
        return path.stem.removesuffix(f".{self._part}" if self._part else "")

    def _tell(self, what: str, text: str) -> None:
        self._notes[what] = text
        self._warn(text)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when another program writes the file; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
