"""No file and no text chooses how long it takes to read, or how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BUDGET = 2.0  # seconds of CPU time, on the machine of a user
SLOWER = 5.0  # what the machine of a test may be slower, with others working on it
MEMORY = 1500.0  # megabytes; a copy or two of 16 MB in Python's own objects
HANGS = 600.0  # seconds after which no more answers are waited for
HOSTILE = Path(__file__).parents[1] / "parts" / "hostile.py"


def test_no_input_of_16_mb_takes_more_than_its_budget(tmp_path):
    begun, answers = answered([sys.executable, str(HOSTILE), str(tmp_path)])
    assert len(answers) > 150
    slow = {one["name"]: one["seconds"] for one in answers if one["seconds"] > BUDGET * SLOWER}
    large = {one["name"]: one["megabytes"] for one in answers if one["megabytes"] > MEMORY}
    assert not slow and not large, (slow, large)
    assert len(answers) == len(begun)


def answered(command: list[str]) -> tuple[list[str], list[dict]]:
    """The names of the inputs begun, and what is told of those that were answered."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=HANGS, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        last = (error.stdout or b"").decode().splitlines()[-1:]
        raise AssertionError(f"it hangs: {last}") from error
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-3000:])
    return [one["begun"] for one in lines if "begun" in one], [o for o in lines if "name" in o]
