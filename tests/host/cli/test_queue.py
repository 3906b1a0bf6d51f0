"""`python -m craft_core queue` on the real server: the demo with two values of each of two inputs,
then jobs that fail, then what an interrupt leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.craft_core.presets import SHIPPED, node_values
from PIL import Image

from launcher.paths import ROOT

DEMO = ROOT / "workflows" / "demo_small_world.json"
QUICK = ["--set", "steps=2", "--set", "batch_size=1"]
MATRIX = ["--matrix", "content_strength=0.2,0.7", "seed=1..2"]


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("queue")


@pytest.fixture
def queue(live_server, folder, capsys):
    def run(*arguments: str) -> Ran:
        place = ["--server", live_server.url, "--out", str(folder)]
        status = main(["queue", str(DEMO), *place, *QUICK, *arguments])
        return Ran(status, *capsys.readouterr())

    return run


def finished(live_server) -> int:
    """How many prompts the server has finished."""
    return len(live_server.server.client.get_json("/history"))


def settings(path: Path) -> dict:
    """Strength and seed as the host itself wrote them into a picture."""
    with Image.open(path) as image:
        prompt = json.loads(image.info["prompt"])
    return {"content_strength": prompt["4"]["inputs"]["content_strength"],
            "seed": prompt["7"]["inputs"]["seed"]}  # fmt: skip


def test_two_by_two_become_pictures_with_their_parameters(queue, folder):
    ran = queue(*MATRIX)
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[-1] == "4 done, 0 done before, 0 failed"
    made = set()
    for strength in ("0.2", "0.7"):
        for seed in ("1", "2"):
            stem = f"demo_small_world_content_strength-{strength}_seed-{seed}"
            picture = folder / f"{stem}_demo_00001.png"
            assert settings(picture) == {"content_strength": float(strength), "seed": int(seed)}
            with Image.open(picture) as image:
                recorded = json.loads(image.info["craft_queue"])
                made.add(image.tobytes())
            assert recorded["parameters"] == {"content_strength": strength, "seed": seed}
    assert len(made) == 4
    # The pairs do not depend on the matrix: their picture is there once, and each job has it.
    (pairs,) = folder.glob("*_pairs_*")
    lines = map(json.loads, (folder / "queue.jsonl").read_text("utf-8").splitlines())
    files = [line["files"] for line in lines if line["state"] == "done"]
    assert len(files) == 4 and all(len(own) == 2 and pairs.name in own for own in files)


def test_the_same_command_again_has_nothing_to_do(queue, live_server):
    before = finished(live_server)
    ran = queue(*MATRIX)
    assert ran.status == 0 and "0 done, 4 done before" in ran.out
    assert finished(live_server) == before


def test_a_job_that_was_finished_while_nobody_waited_is_only_fetched(queue, live_server, folder):
    journal = folder / "queue.jsonl"
    *lines, last = journal.read_text("utf-8").splitlines()
    own = [name for name in json.loads(last)["files"] if not any(name in one for one in lines)]
    assert len(own) == 1
    (folder / own[0]).unlink()
    journal.write_text("\n".join(lines) + "\n", "utf-8")
    before = finished(live_server)
    ran = queue(*MATRIX)
    assert ran.status == 0 and "1 done, 3 done before" in ran.out
    assert finished(live_server) == before


def test_failing_jobs_are_told_in_the_hosts_words_and_the_others_run(queue):
    """A LoRA that the server does not have is refused; patterns that match no layer fail in the
    node itself."""
    menu = ["--set", "layer_sets=custom"]
    patterns = "layer_sets.patterns=craft-release,content: up_blocks.77"
    ran = queue(*menu, "--matrix", "style=craft_small_world_style,nowhere", patterns)
    assert ran.status == 1 and "1 done, 0 done before, 3 failed" in ran.out, ran.err
    assert "No content pattern matches this model: up_blocks.77" in ran.err
    assert "job 3 (style=nowhere layer_sets.patterns=" in ran.err
    assert "ComfyUI refused the workflow" in ran.err and "Error: 3 of 4 jobs failed" in ran.err


def test_a_dynamic_input_is_set_with_the_entry_that_brings_it(queue, folder):
    method = ["--set", "method=k_lora", "--set", "Content/Style LoRA Router.method.alpha=0.5"]
    ran = queue(*method, "--set", "seed=3")
    assert ran.status == 0, ran.err
    with Image.open(folder / "demo_small_world_demo_00001.png") as image:
        router = json.loads(image.info["prompt"])["4"]["inputs"]
    assert router["method"] == "k_lora" and router["method.alpha"] == 0.5


def test_a_preset_is_in_every_job_and_set_comes_after_it(queue, folder):
    ran = queue("--preset", "strong_style", "--set", "content_strength=0.25")
    assert ran.status == 0, ran.err
    assert "Left out" not in ran.err
    lines = ran.out.splitlines()
    (picture,) = [line for line in lines if "_demo_" in line and line.endswith(".png")]
    with Image.open(picture) as image:  # the other shows the references, whatever the settings
        prompt = json.loads(image.info["prompt"])
    of = {node["class_type"]: node["inputs"] for node in prompt.values()}
    values = node_values(SHIPPED["strong_style"])
    assert of["CRAFTRouter"]["content_strength"] == 0.25
    assert of["CRAFTRouter"].items() >= {**values.router, "content_strength": 0.25}.items()
    assert of["CRAFTACFGKSampler"].items() >= values.guidance.items()
    assert of["CRAFTTimestepSchedule"].items() >= values.schedule.items()
