"""`python -m craft_core train ...` in processes of its own, on the trained small world.

Two processes, because starting the host takes longer than all trainings: one runs every command
line below, the other resumes what a Ctrl-C stopped in the first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from craft_lora_pack.cli.train.common import PRECISIONS
from craft_lora_pack.comfy_adapter.train.precision import CHOICES
from craft_lora_pack.craft_core.encoder.file import read_encoder
from craft_lora_pack.craft_core.projection import read_basis
from safetensors import safe_open

from launcher.paths import ROOT

WORLD = ROOT / "small_world"
CONTENT, STYLE = WORLD / "references" / "content", WORLD / "references" / "style"
LORAS = WORLD / "models" / "loras"
MODEL = ["--checkpoint", "craft_small_world.safetensors", "--custom-node", str(WORLD), "--cpu"]
LORA = [
    "train", "lora", *MODEL, "--basis", "craft_small_world_basis.safetensors",
    "--images", str(CONTENT / "cat.png"), "--role", "content", "--layer-sets", "b-lora",
    "--rank", "2", "--steps", "3", "--warmup", "1", "--mirror", "--name", "cats/one",
]  # fmt: skip
BASIS = [
    "train", "basis", *MODEL, "--content", str(CONTENT / "cat.png"), str(CONTENT / "house.png"),
    "--style", str(STYLE / "comic.png"), "--size", "32x32", "--layers", "attention",
    "--r-max", "2", "--r-min", "1", "--steps", "2", "--batch-size", "1", "--name", "tiny",
]  # fmt: skip
HALF = [
    "train", "b4m", *MODEL, "--images", str(CONTENT / "cat.png"), "--role", "content",
    "--partners", str(STYLE / "comic.png"), "--rank", "4", "--steps", "2", "--name", "tiny",
]  # fmt: skip
JOINT = [
    "train", "joint", *MODEL, "--content", str(CONTENT / "cat.png"),
    "--style", str(STYLE / "comic.png"), "--layer-sets", "b-lora", "--rank", "2", "--steps", "2",
    "--name", "tiny",
]  # fmt: skip
ENCODER = [
    "train", "encoder", *MODEL, "--images", str(CONTENT / "cat.png"),
    "--caption", "<c>a zwx cat</c> in <s>comic style</s>", "--steps", "2", "--name", "tiny",
    "--content-lora", "craft_small_world_content.safetensors",
    "--style-lora", str(LORAS / "craft_small_world_style.safetensors"), "0.8",
]  # fmt: skip


MERGE = [
    "train", "merge", *MODEL, "--method", "duo_lora", "--steps", "1", "--name", "tiny",
    "--content-lora", "craft_small_world_content.safetensors",
    "--style-lora", str(LORAS / "craft_small_world_style.safetensors"), "0.8",
    "--content", str(CONTENT / "cat.png"), "--style", str(STYLE / "comic.png"),
    "--size", "32x32", "--fused-prompt", "a cat in comic style",
]  # fmt: skip


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str
    output: Path

    @property
    def saved(self) -> Path:
        """The path at the end of the printed text."""
        return Path(self.out.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("headless")


@pytest.fixture(scope="module")
def ran(folder):
    """What each command line did, by name; each has its own output directory."""
    broken, other = folder / "broken.png", folder / "craft_small_world_style.safetensors"
    broken.write_bytes(b"no picture")
    other.write_bytes(b"no LoRA")
    image = ["--images", str(broken), "--caption", "a picture"]
    commands = {
        "lora": LORA,
        "stopped": LORA,
        "basis": BASIS,
        "half": HALF,
        "joint": JOINT,
        "encoder": ENCODER,
        "merge": MERGE,
        "unknown checkpoint": [*LORA, "--checkpoint", "none.safetensors"],
        "pickle": [*LORA, "--checkpoint", "model.ckpt"],
        "no model inside": [*LORA, "--checkpoint", str(other)],
        "broken picture": [*LORA, *image],
        "no node pack": [*LORA, "--custom-node", str(folder)],
        "name outside": [*LORA, "--name", "../one"],
        "unknown text encoders": [*LORA, "--clip", "c.safetensors", "--clip-type", "sd9"],
        "namesake": [*ENCODER, "--content-lora", str(other)],
    }
    plan = [
        {"arguments": [*given, *places(folder, name)], "interrupt": 2 * (name == "stopped")}
        for name, given in commands.items()
    ]
    (folder / "plan.json").write_text(json.dumps(plan), "utf-8")
    script = Path(__file__).parents[1] / "parts" / "command_line.py"
    process = python(script, folder / "plan.json", folder / "answers.json")
    assert process.returncode == 0, process.stderr
    answers = json.loads((folder / "answers.json").read_text("utf-8"))
    return {
        name: Ran(**one, output=folder / name)
        for name, one in zip(commands, answers, strict=True)
    }  # fmt: skip


@pytest.fixture(scope="module")
def resumed(folder, ran):
    process = python("-m", "craft_core", *LORA, *places(folder, "stopped"), "--resume")
    return Ran(process.returncode, process.stdout, process.stderr, folder / "stopped")


def places(folder, name):
    return ["--out", str(folder / name), "--base-directory", str(folder)]


def python(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip


def files(ran):
    return sorted(str(p.relative_to(ran.output)) for p in ran.output.rglob("*") if p.is_file())


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_a_lora_is_trained_and_its_path_printed_last(ran):
    lora = ran["lora"]
    assert lora.status == 0, lora.err
    assert lora.saved == lora.output / "loras" / "cats" / "one_00001_.safetensors"
    assert "3 steps" in lora.out and "recipe lora" in lora.out
    assert metadata(lora.saved)["craft_role"] == "content"
    assert "'mirror': 'True'" in str(json.loads(metadata(lora.saved)["training"]))


def test_ctrl_c_leaves_a_file_that_loads_and_a_state(ran, resumed):
    stopped = ran["stopped"]
    assert stopped.status == 130
    assert "--resume" in stopped.out
    partial = stopped.output / "loras" / "cats" / "one_00001_.safetensors"
    state = stopped.output / "craft_training" / "loras" / "cats" / "one.content.safetensors"
    assert str(partial) in stopped.out and str(state) in stopped.out and state.is_file()
    assert metadata(partial)["steps_done"] == "2"
    with safe_open(partial, framework="pt") as one, safe_open(ran["lora"].saved, "pt") as other:
        assert set(one.keys()) == set(other.keys())


def test_resumed_it_ends_in_the_same_bytes_as_in_one_go(ran, resumed):
    assert resumed.status == 0, resumed.err
    assert "2 of them resumed" in resumed.out
    assert resumed.saved.name == "one_00002_.safetensors"
    assert resumed.saved.read_bytes() == ran["lora"].saved.read_bytes()


def test_a_basis_is_trained_on_every_pair(ran):
    basis = ran["basis"]
    assert basis.status == 0, basis.err
    assert basis.saved == basis.output / "craft_bases" / "tiny_00001_.safetensors"
    read = read_basis(basis.saved)
    assert read.layers and json.loads(metadata(basis.saved)["training"])["pairs"] == "2"


def test_a_half_is_trained_with_partners_on_the_layers_of_both_roles(ran):
    half = ran["half"]
    assert half.status == 0, half.err
    assert half.saved == half.output / "loras" / "tiny_00001_.safetensors"
    assert metadata(half.saved)["craft_b4m_basis"] in half.out
    assert "partner_batch 1" in half.out and "layer_set all" in half.out


def test_a_content_and_a_style_are_trained_into_one_file(ran):
    joint = ran["joint"]
    assert joint.status == 0, joint.err
    assert joint.saved == joint.output / "loras" / "tiny_00001_.safetensors"
    assert "2 steps" in joint.out and "recipe joint" in joint.out
    told = json.loads(metadata(joint.saved)["training"])
    assert told["layer_set"] == "b-lora" and all(int(n) > 0 for n in told["layers"].split())


def test_an_encoder_is_trained_for_listed_loras_and_for_paths(ran):
    encoder = ran["encoder"]
    assert encoder.status == 0, encoder.err
    assert encoder.saved == encoder.output / "craft_encoders" / "tiny_00001_.safetensors"
    read_encoder(encoder.saved)


def test_a_merge_is_learned_from_listed_loras_and_from_paths(ran):
    merge = ran["merge"]
    assert merge.status == 0, merge.err
    assert merge.saved == merge.output / "loras" / "tiny_00001_.safetensors"
    with safe_open(merge.saved, framework="pt") as file:
        recorded = json.loads(file.metadata()["training"])
    assert recorded["recipe"] == "duo_lora" and recorded["strengths"] == "1 0.8"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unknown checkpoint", "craft_small_world.safetensors"),  # what is possible
        ("pickle", "run code"),
        ("no model inside", "cannot be loaded"),
        ("broken picture", "broken.png"),
        ("no node pack", "node pack"),
        ("name outside", "output folder"),
        ("unknown text encoders", "stable_diffusion"),
        ("namesake", "cannot be read"),  # the file at the path, not the listed one of its name
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(ran, name, message):
    failed = ran[name]
    assert failed.status == 1, failed.err
    last = failed.err.splitlines()[-1]
    assert last.startswith("Error: ") and message in last
    assert failed.out == "" and "Traceback" not in failed.err.split("node pack")[0]
    assert files(failed) == []


def test_the_precisions_are_the_trainings():
    assert CHOICES == PRECISIONS
