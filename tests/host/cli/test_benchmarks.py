"""Every benchmark finds the host, the pack, and the parts of the tests that it uses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from launcher.paths import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("[!_]*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_starts(script):
    done = subprocess.run(
        [sys.executable, str(script), "--help"], cwd=ROOT, env=dict(os.environ), check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"usage: {script.name}" in done.stdout
