"""What the user sees: plain lines, and one live line that is redrawn on a terminal."""

import shutil
import sys
import threading
import time
from collections.abc import Callable

SPIN = "|/-\\"
HEARTBEAT = 30.0  # seconds between two lines where a line cannot be redrawn


def say(text: str = "") -> None:
    """Print one finished line."""
    print(text, flush=True)


def bar(done: float, total: float, width: int = 24) -> str:
    """A progress bar in plain characters: `[######......] 5/10`."""
    share = min(max(done / total, 0.0), 1.0) if total else 0.0
    full = round(share * width)
    return f"[{'#' * full}{'.' * (width - full)}] {done:g}/{total:g}"


class Spinner:
    """A running step: `with Spinner("unpacking") as step: step.detail("12 of 40")`.

    On a terminal one line with a spinner and the seconds is redrawn; elsewhere (a log, CI) the
    step is printed once, and again every half minute. At the end a line says how long the step
    took, or after what time it was stopped.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic):
        self._title = title
        self._clock = clock
        self._detail = ""
        self._live = sys.stdout.isatty()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._redraw, daemon=True)

    def detail(self, text: str) -> None:
        """Change the text that is shown after the title."""
        self._detail = text

    def __enter__(self) -> "Spinner":
        self._start = self._clock()
        if not self._live:
            say(f"  {self._title} ...")
        self._thread.start()
        return self

    def __exit__(self, kind, *_rest) -> None:
        self._done.set()
        self._thread.join()
        seconds = self._clock() - self._start
        if self._live:
            self._write("")
        state = "" if kind is None else "stopped after "
        say(f"  {self._title}: {state}{seconds:.1f} s")

    def _redraw(self) -> None:
        turn = 0
        while not self._done.wait(0.15 if self._live else HEARTBEAT):
            seconds = self._clock() - self._start
            if self._live:
                self._write(f"{SPIN[turn % 4]} {self._title}  {self._detail}  {seconds:.0f} s")
            else:
                say(f"  {self._title} ... {self._detail} ({seconds:.0f} s)")
            turn += 1

    def _write(self, line: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write("\r" + line[:width].ljust(width) + ("\r" if not line else ""))
        sys.stdout.flush()
