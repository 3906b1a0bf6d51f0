"""The command line runs on a Python with the standard library alone, and asks for torch only where
something is computed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from craft_lora_pack.cli.main import commands_of, main
from craft_lora_pack.cli.stand_in import NAMES, declarations, require_torch
from craft_lora_pack.craft_core.errors import CraftError
from fake_comfyui import PROMPT, FakeComfyUI
from fake_host import FakeHost
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[3]
HELPS = [(), ("train",), *(one.words for one in commands_of())]


def plain(*arguments, folder=ROOT, packages="") -> subprocess.CompletedProcess[str]:
    """A Python that sees no installed package runs the command; `-S` leaves them out. packages: a
    folder of those that it sees."""
    return subprocess.run(
        [sys.executable, "-S", "-m", "craft_core", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, timeout=120,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        | {"COLUMNS": "100", "PYTHONPATH": str(packages)},
    )  # fmt: skip


def test_this_plain_python_has_none_of_them():
    for name in ("torch", "safetensors", "numpy", "tqdm"):
        ran = subprocess.run([sys.executable, "-S", "-c", f"import {name}"], capture_output=True)
        assert ran.returncode == 1 and b"ModuleNotFoundError" in ran.stderr


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_every_help_is_the_same_without_torch(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    ran = plain(*words, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == capsys.readouterr().out


@pytest.mark.parametrize("words", [("methods",), ("methods", "--markdown"), ("families",)],
                         ids=" ".join)  # fmt: skip
def test_tables_are_the_same_without_torch(words, capsys):
    assert main(list(words)) == 0
    ran = plain(*words)
    assert (ran.returncode, ran.stdout) == (0, capsys.readouterr().out)


@pytest.mark.parametrize("own", [["-I"], []], ids=["own folders alone", "any"])
def test_the_command_is_also_a_file_for_a_python_that_looks_in_its_own_folders_alone(own, tmp_path):
    """As that of ComfyUI's portable build does; -I makes another one so."""
    file = ROOT / "craft_core" / "__main__.py"
    ran = subprocess.run(
        [sys.executable, *own, "-S", str(file), "methods"], cwd=tmp_path, capture_output=True,
        text=True, timeout=120, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", plain("methods").stdout)


LORAS = ["--content-lora", "a.safetensors", "--style-lora", "b.safetensors"]
ONE = ["--role", "content", "--images", "a.png"]
TWO = ["--content", "a.png", "--style", "b.png"]
COMPUTING = {
    ("fuse",): [*LORAS, "--method", "direct", "--save", "c.safetensors"],
    ("train", "basis"): TWO,
    ("train", "lora"): ONE,
    ("train", "b4m"): ONE,
    ("train", "joint"): TWO,
    ("train", "encoder"): [*LORAS, "--images", "a.png"],
    ("train", "merge"): [*LORAS, *TWO, "--method", "zip_lora"],
}


def test_the_commands_that_compute_are_those():
    assert set(COMPUTING) == {one.words for one in commands_of() if one.computes}


@pytest.mark.parametrize("words", COMPUTING, ids=" ".join)
def test_what_computes_asks_for_torch_in_one_message(words):
    ran = plain(*words, *COMPUTING[words])
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith("Error: ") and ran.stderr.count("\n") == 1
    assert "has no torch" in ran.stderr and "install" in ran.stderr


@pytest.mark.parametrize("error", ["OSError", "ImportError"])
@pytest.mark.parametrize("words", [*COMPUTING, ("inspect",)], ids=" ".join)
def test_a_torch_that_cannot_be_loaded_is_told_in_one_message(words, error, tmp_path):
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "torch.py").write_text(f"raise {error}('libcudart.so:\\n cannot open')\n")
    given = COMPUTING.get(words, ["a.safetensors"])
    ran = plain(*words, *given, packages=tmp_path)
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith("Error: ") and ran.stderr.count("\n") == 1
    assert "a torch that cannot be loaded (libcudart.so: cannot open)" in ran.stderr


@pytest.mark.parametrize(
    "error",
    [
        ImportError("nothing of that name", name=declarations.__module__),
        PermissionError(13, "nothing of that name", str(ROOT / "registry.json")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_fault_of_torch_is_not_told_as_one(error):
    with pytest.raises(type(error), match="nothing of that name"), declarations():
        raise error


@pytest.mark.parametrize(
    "word", sorted({one.words[0] for one in commands_of() if not one.computes})
)
def test_what_runs_without_torch_is_listed_wherever_that_is_said(word, monkeypatch):
    monkeypatch.setattr("craft_lora_pack.cli.stand_in.missing", lambda: ["torch"])
    with pytest.raises(CraftError) as told:
        require_torch()
    assert word in re.split(r"\W* ", told.value.possible)
    head = (ROOT / "docs" / "command_line.md").read_text("utf-8").split("\n## ")[0]
    assert f"`{word}`" in head


def test_a_queue_runs_and_saves_its_pictures(tmp_path):
    file, out = tmp_path / "demo.json", tmp_path / "out"
    file.write_text(json.dumps(PROMPT))
    with FakeComfyUI() as server:
        ran = plain("queue", file, "--server", server.url, "--out", out, "--matrix", "seed=1..2")
    assert ran.returncode == 0, ran.stderr
    assert "2 done" in ran.stdout and len(list(out.glob("*.png"))) == 2


def test_several_servers_need_no_package_and_dask_is_asked_for_in_one_line(tmp_path):
    file, out = tmp_path / "demo.json", tmp_path / "out"
    file.write_text(json.dumps(PROMPT))
    with FakeHost() as one, FakeHost() as two:
        places = ["--server", one.url, "--server", two.url, "--out", out]
        ran = plain("queue", file, *places, "--matrix", "seed=1..6")
    assert ran.returncode == 0, ran.stderr
    assert "6 done" in ran.stdout and len(list(out.glob("*.png"))) == 6
    ran = plain("queue", file, "--dask", "tcp://127.0.0.1:9", "--out", out)
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1
    assert "no distributed" in ran.stderr and 'pip install "dask[distributed]"' in ran.stderr


def test_dask_is_imported_by_no_command_that_was_not_given_it():
    code = "import runpy, sys; runpy.run_module('craft_core', run_name='__main__')"
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, "queue", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0
    assert not re.search(r"\| +(distributed|dask)\b", ran.stderr)


@pytest.fixture
def loras(tmp_path):
    """Two files that share a layer."""
    files = []
    for name, layers in (("a", ("0", "1")), ("b", ("1",))):
        tensors = {}
        for layer in layers:
            stem = f"lora_unet_mid_block_attentions_{layer}_proj_in"
            tensors |= {f"{stem}.lora_down.weight": torch.ones(4, 8),
                        f"{stem}.lora_up.weight": torch.ones(8, 4),
                        f"{stem}.alpha": torch.tensor(2.0)}  # fmt: skip
        files.append(tmp_path / f"{name}.safetensors")
        save_file(tensors, files[-1], {"ss_base_model_version": f"of {name}"})
    return files


def test_inspect_says_what_the_headers_hold(loras):
    ran = plain("inspect", *loras)
    assert ran.returncode == 0, ran.stderr
    assert "2 layers, rank 4" in ran.stdout and "LoRA in 2" in ran.stdout
    assert "ss_base_model_version: of b" in ran.stdout
    assert "1 layers in both, 1 in A alone, 0 in B alone" in ran.stdout
    assert "no torch" in ran.stdout
    found = json.loads(plain("inspect", loras[0], "--json").stdout)
    assert found["measured"] is False and found["files"][0]["ranks"] == [4]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff" * 16, b"\x05\0\0\0\0\0\0\0[1,2]", None], ids=str
)
def test_inspect_refuses_what_is_no_such_file_in_one_line(tmp_path, content):
    file = tmp_path / "a.safetensors"
    if content is not None:
        file.write_bytes(content)
    ran = plain("inspect", file)
    assert ran.returncode == 1 and ran.stderr.startswith("Error: ")
    assert ran.stderr.count("\n") == 1


def test_a_model_needs_torch(loras):
    ran = plain("inspect", loras[0], "--unet", "model.safetensors")
    assert ran.returncode == 1 and "has no torch" in ran.stderr
