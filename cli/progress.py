"""Progress on the terminal, and a Ctrl-C that lets a training's present step end first."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..craft_core.training import Training

WAITING = b"\nStopping after this step. Ctrl-C again ends at once and saves nothing.\n"
_RECENT = 20  # steps whose mean loss is shown
_SECONDS = 10.0  # between two lines where the output is no terminal


class PlainBar:
    """What is used of tqdm, for a Python without it: a line on stderr now and then."""

    def __init__(
        self, total: float, initial: float = 0, mininterval: float = _SECONDS, **_: Any
    ) -> None:
        self.n, self._total, self._pause = initial, total, max(mininterval, 1.0)
        self._name, self._state, self._shown = "", "", time.monotonic()

    def set_description_str(self, text: str, refresh: bool = True) -> None:
        self._name = text

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self._state = text

    def update(self, by: float) -> None:
        self.n += by
        if time.monotonic() - self._shown >= self._pause:
            self._show()

    def write(self, line: str, file: Any) -> None:
        print(line, file=file, flush=True)

    def close(self) -> None:
        self._show()

    def _show(self) -> None:
        share = f"{100 * self.n / self._total:.0f}%" if self._total else ""
        said = " ".join(filter(None, (self._name, share, self._state)))
        print(said, file=sys.stderr, flush=True)
        self._shown = time.monotonic()


def progress_bar(**how: Any) -> Any:
    """A bar of tqdm, where that is installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return PlainBar(**how)
    return tqdm(**how)


class LayerProgressBar:
    """A progress bar over layers, on stderr; closed when the block ends, by an error too."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> LayerProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            pause = 0.1 if sys.stderr.isatty() else _SECONDS
            self._bar = progress_bar(total=total, unit="layer", mininterval=pause)
        self._bar.update(done - self._bar.n)


class Progress:
    """Call it after each step. While the block lasts, the first Ctrl-C ends the training between
    two steps, so that what is saved is whole; a second ends the process at once."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._asked = False
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> Progress:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self._bar is not None:
            self._bar.close()

    def __call__(self, training: Training) -> None:
        """Show the step; KeyboardInterrupt if the user asked to stop and there is more to do."""
        if self._bar is None:
            self._bar = self._opened(training)
        recent = training.losses[-_RECENT:]
        self._bar.set_postfix_str(f"loss {sum(recent) / len(recent):.4f}", refresh=False)
        self._bar.update(training.step - self._bar.n)
        if self._asked and training.step < training.pace.steps:
            raise KeyboardInterrupt

    def _opened(self, training: Training) -> Any:
        pause = 0.1 if sys.stderr.isatty() else _SECONDS
        done = training.step - 1  # before this run's first step
        return progress_bar(total=training.pace.steps, initial=done, unit="step", mininterval=pause)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(2, WAITING)  # print could interrupt the bar's own printing
