"""Damaged files and texts in a living ComfyUI; `run.py fuzz` gives it more of them."""

import os
import subprocess
import sys
from pathlib import Path

LIVE = Path(__file__).parents[2] / "fuzz" / "live.py"


def test_a_server_answers_every_damaged_input_and_stays_as_it_was():
    ran = subprocess.run(
        [sys.executable, str(LIVE), "--cases", "2"], capture_output=True, text=True, timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]
    assert "LoRA files 2, basis files 2" in ran.stdout
