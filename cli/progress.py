"""A training's progress on the terminal, and a Ctrl-C that lets the present step end first."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

from tqdm import tqdm

from ..craft_core.training import Training

WAITING = b"\nStopping after this step. Ctrl-C again ends at once and saves nothing.\n"
_RECENT = 20  # steps whose mean loss is shown
_SECONDS = 10.0  # between two lines where the output is no terminal


class Progress:
    """Call it after each step. While the block lasts, the first Ctrl-C ends the training between
    two steps, so that what is saved is whole; a second ends the process at once."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
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

    def _opened(self, training: Training) -> tqdm:
        pause = 0.1 if sys.stderr.isatty() else _SECONDS
        done = training.step - 1  # before this run's first step
        return tqdm(total=training.pace.steps, initial=done, unit="step", mininterval=pause)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(2, WAITING)  # print could interrupt the bar's own printing
