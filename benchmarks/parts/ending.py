"""A matrix on several ComfyUIs of which one is killed, as are a worker and the command itself.

Everything is ended with SIGKILL, so that nothing can be tidied up.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 3600.0  # seconds for a matrix
SHARES = {"a ComfyUI is killed": 0.15, "a worker is killed": 0.3, "a ComfyUI joins": 0.45,
          "the command is killed": 0.6}  # fmt: skip


@dataclass
class Cluster:
    """A Dask scheduler and workers, each a process, in a folder for their log."""

    folder: Path
    processes: list[subprocess.Popen] = field(default_factory=list)
    address: str = ""

    @property
    def log(self) -> Path:
        return self.folder / "scheduler.log"

    def start(self) -> None:
        """Start the scheduler, and wait for its address."""
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0")
        self._until(lambda: re.search(r"Scheduler at: +tcp://\S+", self.log.read_text()))
        self.address = re.search(r"Scheduler at: +(tcp://\S+)", self.log.read_text())[1]

    def add(self, url: str) -> subprocess.Popen:
        """A worker beside a server, once the scheduler knows it."""
        before = self.log.read_text().count("Registered to:")
        arguments = ["--no-nanny", "--nthreads", "1", "--resources", "comfy=1"]
        worker = self._start("worker", self.address, *arguments, COMFYUI_URL=url)
        self._until(lambda: self.log.read_text().count("Registered to:") > before)
        return worker

    def _start(self, program: str, *arguments: str, **more: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--no-dashboard"]
        with self.log.open("a") as file:
            self.processes.append(subprocess.Popen(
                [*command, *arguments], stdout=file, stderr=file, cwd=self.folder,
                env=os.environ | more,
            ))  # fmt: skip
        return self.processes[-1]

    def _until(self, found: Callable[[], object]) -> None:
        while not found():
            if any(process.poll() is not None for process in self.processes[:1]):
                raise RuntimeError(f"Dask's scheduler ended:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)


@contextmanager
def cluster(urls: Sequence[str], folder: Path) -> Iterator[Cluster]:
    """A scheduler, and a worker beside each server."""
    running = Cluster(Path(tempfile.mkdtemp(prefix="dask", dir=folder)))
    try:
        running.start()
        for url in urls:
            running.add(url)
        yield running
    finally:
        for process in running.processes:
            process.kill()
            process.wait()


def queue(command: Sequence[str], out: Path) -> subprocess.Popen:
    """The command, as a user starts it."""
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "craft_core", "queue", *command, "--out", str(out)],
            cwd=ROOT, stdout=log, stderr=log,
        )  # fmt: skip


def ended(out: Path) -> Counter[str]:
    """How often the journal of a folder says of each job that it is done."""
    journal = out / "queue.jsonl"
    text = journal.read_text("utf-8") if journal.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return Counter(line["job"] for line in lines if line["state"] == "done")


def run_with_ends(
    command: Sequence[str], jobs: int, out: Path, events: dict[str, Callable[[], None]]
) -> None:
    """The matrix, with each event once its share of the jobs is done; the command is begun again
    where it was killed."""
    process, begun = queue(command, out), time.monotonic()
    waiting = sorted((share, name) for name, share in SHARES.items() if name in events)
    while process.poll() is None or waiting:
        if time.monotonic() - begun > LONGEST:
            process.kill()
            raise RuntimeError(f"{sum(ended(out).values())} of {jobs} jobs after {LONGEST:.0f} s")
        if waiting and process.poll() is not None:
            raise RuntimeError(f"the command ended before: {waiting[0][1]}")
        if waiting and len(ended(out)) >= waiting[0][0] * jobs:
            _, name = waiting.pop(0)
            print(
                f"{time.monotonic() - begun:7.1f} s  {len(ended(out)):4} done  {name}", flush=True
            )
            if name == "the command is killed":
                process.kill()
                process.wait()
                process = queue(command, out)
            else:
                events[name]()
        time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"the command failed:\n{out.with_suffix('.log').read_text()[-2000:]}")
    print(f"{time.monotonic() - begun:7.1f} s  {len(ended(out)):4} done  the end", flush=True)
