"""A ComfyUI that a Dask worker starts on its own computer, and that ends with it.

The class goes to workers by value: they have Python and Dask alone.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import threading
import time

START = "COMFYUI_START"  # the variable that holds the command of the ComfyUI beside a worker
LIVES = 60.0  # seconds; what ends sooner has not started
TRIES = 3  # of what does not start, one after another
PAUSE = 5.0  # seconds between two starts
# Ends the command when its own standard input ends, as it does however the worker has ended.
WATCH = """
import os, subprocess, sys, threading
own = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def end():
    sys.stdin.buffer.read()
    own.terminate()
    try:
        own.wait(10)
    except subprocess.TimeoutExpired:
        own.kill()
threading.Thread(target=end, daemon=True).start()
os._exit(own.wait() % 256)  # the other thread still reads
"""


class StartsHost:
    """Half of a Dask WorkerPlugin: with the worker a command starts, and starts again where it
    ends; a worker whose environment names none has its ComfyUI from elsewhere."""

    name = "craft-lora-comfyui"
    idempotent = True  # a later command finds it there, and its ComfyUI stays

    def setup(self, worker: object) -> None:
        command = os.environ.get(START, "")
        self._ends = threading.Event()
        self._running: subprocess.Popen | None = None
        if command.strip():
            words = shlex.split(command, posix=os.name == "posix")
            threading.Thread(target=self._keep, args=(words,), daemon=True).start()

    def teardown(self, worker: object) -> None:
        self._ends.set()
        if self._running is not None and self._running.stdin is not None:
            self._running.stdin.close()

    def _keep(self, command: list[str]) -> None:
        log, failed = logging.getLogger("distributed.worker"), 0
        while failed < TRIES and not self._ends.is_set():
            began = time.monotonic()
            log.info("%s starts: %s", START, command)
            self._running = subprocess.Popen(
                [sys.executable, "-c", WATCH, *command], stdin=subprocess.PIPE
            )
            status = self._running.wait()
            failed = failed + 1 if time.monotonic() - began < LIVES else 0
            log.warning("%s ended with %s", START, status)
            self._ends.wait(PAUSE)
        if failed == TRIES:
            log.error("%s does not start, and is not tried again: %s", START, command)
