"""Every benchmark finds the host, the pack, and the parts of the tests that it uses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch

from benchmarks.parts import preflight
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
SECONDS = 300  # of all parts together, and of what is before them, at most
QUICK = "smoke|profile|edits_dynamic|edits_compiled|training|memory"
with_bash = pytest.mark.skipif(os.name == "nt", reason="needs bash")


def rehearse(folder, only, *more):
    """What the run of a card prints at small size on this processor."""
    done = subprocess.run(
        ["bash", str(GPU), "--device", "cpu", "--small", "--only", only, *more],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(folder)}, cwd=ROOT, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    logs = "".join(path.read_text("utf-8") for path in sorted(folder.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return done.stdout


EDITED = ("first run", "prompt edit", "strength edit")


def rows_of(printed):
    """Beginnings of lines up to the first wide gap."""
    return {re.split(r" {2,}", line.strip())[0] for line in printed.splitlines()}


@with_bash
def test_the_run_of_a_card_is_rehearsed(tmp_path):
    printed = rehearse(tmp_path, f"^({QUICK})$")
    rows = rows_of(printed)
    assert {f"== {part}" for part in QUICK.split("|")} <= rows
    assert {"no LoRA", "host bypass", "two separate models"} <= rows  # smoke
    assert {"one step, profiled", "ours, ACFG cosine"} <= rows
    assert set(EDITED) <= rows
    assert "no dynamic VRAM, which does not start here" in printed
    later = printed.split("round 1, compiled", 1)[1].splitlines()[1:4]
    assert [re.split(r" {2,}", line)[0] for line in later] == list(EDITED)
    assert [line.split()[-1] for line in later] == ["0"] * 3  # graphs
    trained = {f"{what} of ours" for what in ("LoRA", "basis", "expert encoder")}
    assert trained | {"LoRA of the host's TrainLoraNode"} <= rows
    assert {"all", "legacy"} <= rows  # memory


@with_bash
@pytest.mark.sweep
def test_the_whole_run_of_a_card_is_rehearsed(tmp_path):
    parts = re.findall(r'^(?:part|more) "?([\w$]+)', GPU.read_text("utf-8"), re.M)
    printed = rehearse(tmp_path, ".", "--more")
    assert sum(line.startswith("== ") for line in printed.splitlines()) == len(parts)


def test_the_run_of_a_card_ends_in_time():
    script = GPU.read_text("utf-8")
    (before,) = re.findall(r"then ready=(\d+)", script)
    limits = re.findall(r"^part \S+ (\d+) ", script, re.M)
    assert 0 < int(before) + sum(map(int, limits)) <= SECONDS


def test_what_a_python_lacks_for_the_run_of_a_card_is_said_in_a_line(tmp_path):
    requirements = """
        comfyui-frontend-package==1.0
        torch
        pyyaml
        Pillow
        #of a comment:
        craft-nowhere>=1.0
        craft.elsewhere~=2.0
    """
    assert preflight.missing(textwrap.dedent(requirements)) == ["craft-nowhere", "craft.elsewhere"]
    assert "which is no ComfyUI" in preflight.complaint(tmp_path, "cpu")
    host = tmp_path / "comfy"
    host.mkdir()
    (host / "cli_args.py").touch()
    place = tmp_path / "requirements.txt"
    place.write_text("torch\ncraft-nowhere\n", "utf-8")
    found = preflight.complaint(tmp_path, "cpu")
    assert "lacks craft-nowhere;" in found and "\n" not in found
    place.write_text("torch\n", "utf-8")
    assert preflight.complaint(tmp_path, "cpu") is None
    if not torch.cuda.is_available():
        assert "finds no CUDA card" in preflight.complaint(tmp_path, "cuda")


@with_bash
def test_the_run_of_a_card_ends_at_once_where_it_cannot_run(tmp_path):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "cli_args.py").touch()
    (tmp_path / "requirements.txt").write_text("craft-nowhere\n", "utf-8")
    done = subprocess.run(
        ["bash", str(GPU), "--device", "cpu", "--small"],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "out"),
             "COMFYUI_PATH": str(tmp_path)},
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "==" not in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("cannot run: ") and "craft-nowhere" in line
