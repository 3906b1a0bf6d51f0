"""A process that has loaded the host and the small world, and starts others that need not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("inside.py")


class Nursery:
    """base: the folder of models, input and output that all of its processes share."""

    def __init__(self, base: Path) -> None:
        self.output = base / "output"
        self._log = open(base / "log.txt", "w+b")  # noqa: SIM115 (closed with the process)
        self._program = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(base)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self._answer()

    def start(self, job: str, **given: Any) -> int:
        """The number of a new process that does the job, a function of inside.py."""
        return self._ask({"job": job, "given": given})

    def wait(self, process: int) -> int:
        """The status with which it ended, or minus the signal."""
        return self._ask({"wait": process})

    def kill(self, process: int) -> None:
        """As `kill -9`; it has ended by itself where it was faster."""
        os.kill(process, signal.SIGKILL)
        assert self.wait(process) in (0, -signal.SIGKILL), self.log()

    def run(self, job: str, **given: Any) -> None:
        assert self.wait(self.start(job, **given)) == 0, self.log()

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-5000:]

    def close(self) -> None:
        assert self._program.stdin
        self._program.stdin.close()
        self._program.wait(timeout=60)
        self._log.close()

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._program.stdin
        print(json.dumps(question), file=self._program.stdin, flush=True)
        return self._answer()

    def _answer(self) -> int:
        assert self._program.stdout
        line = self._program.stdout.readline()
        assert line, self.log()
        return int(line)
