"""Damaged files and texts at every place where those of others come in: each is read or refused in
words, in time. Those that once were not are tried always; `run.py fuzz` makes more of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "fuzz" / "fuzz.py"
CASES = 200  # for each door, together about two minutes
DOORS = {
    "LoRA files", "PEFT metadata", "encoder files", "basis files", "CSD files", "CSD checkpoints",
    "text encoders",
    "training states", "prompts", "layer sets", "lists of LoRAs", "texts of lists of LoRAs",
    "methods", "curves", "points", "matrices", "matrix files", "workflows", "journals",
    "journal lines", "presets", "server answers", "announced LoRAs",
}  # fmt: skip


def test_every_damaged_input_is_read_or_refused():
    ran = subprocess.run(
        [sys.executable, str(FUZZ), "--cases", str(CASES)], capture_output=True, text=True,
        timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]
    read = {name: int(count) for name, count in re.findall(r"(.+): (\d+) inputs", ran.stdout)}
    assert read.keys() == DOORS and min(read.values()) >= CASES
