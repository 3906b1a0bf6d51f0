"""Every benchmark finds the host, the pack, and the parts of the tests that it uses."""

from __future__ import annotations

import json
import os
import re
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


def test_find_best_measures_what_the_node_comes_out_with(tmp_path):
    flags = {"--limit": 1, "--each": 1, "--budget": 4, "--steps": 1, "--pictures": 1,
             "--divide-steps": 200, "--out": tmp_path}  # fmt: skip
    script = ROOT / "benchmarks" / "find_best.py"
    done = subprocess.run(
        [sys.executable, str(script), *(str(word) for pair in flags.items() for word in pair)],
        cwd=ROOT, env=dict(os.environ), check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[0].strip("| ") for line in done.stdout.splitlines() if "| " in line]
    ways = {"found", "own values", "first of the lists", "two LoRA loaders", "true render"}
    assert ways | {"found, less own values"} <= set(rows)
    (best,) = [line for line in done.stdout.splitlines() if line.startswith("- ")]
    (journal,) = tmp_path.glob("find_best_4_pictures_1_steps.jsonl")
    made_for, (pair, kept) = map(json.loads, journal.read_text("utf-8").splitlines())
    assert made_for["budget"] == 4 and "craft" in made_for["node"]["methods"]
    assert best.split(": ", 1) == [
        f"- {' in '.join(pair.split('/'))}", kept["report"].split("\n")[0].removeprefix("Best: "),
    ]  # fmt: skip
    assert kept["results"].keys() == ways
    searches = list((tmp_path / "host" / "user").glob("__craft_lora/find_best/*.jsonl"))
    assert len(searches) == 1 and searches[0].read_text("utf-8").count("\n") <= 4


GPU = ROOT / "benchmarks" / "gpu.sh"
SECONDS = 420  # of all parts together, at most
QUICK = "smoke|profile|edits|training|memory"
with_bash = pytest.mark.skipif(os.name == "nt", reason="needs bash")


def rehearse(folder, only):
    """What the run of a card prints at small size on this processor."""
    done = subprocess.run(
        ["bash", str(GPU), "--device", "cpu", "--small", "--only", only],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(folder)}, cwd=ROOT, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    logs = "".join(path.read_text("utf-8") for path in sorted(folder.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return done.stdout


def rows_of(printed):
    """Beginnings of lines up to the first wide gap."""
    return {re.split(r" {2,}", line.strip())[0] for line in printed.splitlines()}


@with_bash
def test_the_run_of_a_card_is_rehearsed(tmp_path):
    rows = rows_of(rehearse(tmp_path, QUICK))
    assert {f"== {part}" for part in QUICK.split("|")} <= rows
    assert {"no LoRA", "host bypass", "two separate models"} <= rows  # smoke
    assert {"one step, profiled", "ours, ACFG cosine"} <= rows
    assert {"first run", "prompt edit", "strength edit"} <= rows
    trained = {f"{what} of ours" for what in ("LoRA", "basis", "expert encoder")}
    assert trained | {"LoRA of the host's TrainLoraNode"} <= rows
    assert {"all", "legacy"} <= rows  # memory


@with_bash
@pytest.mark.sweep
def test_the_whole_run_of_a_card_is_rehearsed(tmp_path):
    parts = re.findall(r'^part "?([\w$]+)', GPU.read_text("utf-8"), re.M)
    printed = rehearse(tmp_path, ".")
    assert sum(line.startswith("== ") for line in printed.splitlines()) == len(parts)


def test_the_run_of_a_card_ends_in_time():
    limits = re.findall(r"^part \S+ (\d+) ", GPU.read_text("utf-8"), re.M)
    assert 0 < sum(map(int, limits)) <= SECONDS
