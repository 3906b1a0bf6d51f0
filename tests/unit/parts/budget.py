"""The budget of an input, and how a list of hostile inputs is held to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BUDGET = 2.0  # seconds of CPU time for an input of up to 16 MB, on the machine of a user
SLOWER = 5.0  # what the machine of a test may be slower, with others working on it
MEMORY = 1500.0  # megabytes; some copies of 16 MB as Python's own objects
HANGS = 3000.0  # seconds on the clock after which no more answers are waited for


def hold_to_budget(script: Path, folder: Path, least: int) -> None:
    """Run the inputs of a script like hostile.py: each is answered or refused within the budget.

    least: how many inputs there are at least.
    """
    begun, answers = _answered([sys.executable, str(script), str(folder)])
    slow = {one["name"]: one["seconds"] for one in answers if one["seconds"] > BUDGET * SLOWER}
    large = {one["name"]: one["megabytes"] for one in answers if one["megabytes"] > MEMORY}
    assert not slow and not large, (slow, large)
    assert len(answers) == len(begun) >= least


def _answered(command: list[str]) -> tuple[list[str], list[dict]]:
    """The names of the inputs begun, and what is told of those that were answered."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=HANGS, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        last = (error.stdout or b"").decode().splitlines()[-1:]
        raise AssertionError(f"it hangs: {last}") from error
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-3000:])
    return [one["begun"] for one in lines if "begun" in one], [o for o in lines if "name" in o]
