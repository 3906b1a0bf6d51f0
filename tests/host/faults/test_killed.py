"""Killed at any moment, a program leaves whole files under their names, and loses no step that it
had saved. Two programs that save under one name lose nothing of each other's."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from craft_lora_pack.craft_core.encoder.file import read_encoder
from craft_lora_pack.craft_core.projection import read_basis
from craft_lora_pack.craft_core.tensor_file import Kind, read
from processes import Nursery
from processes.inside import digest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is forked there")

FILE = Kind("file", "Make it again")
STEPS = 8
KILLS = 4


@pytest.fixture(scope="module")
def nursery(tmp_path_factory) -> Iterator[Nursery]:
    started = Nursery(tmp_path_factory.mktemp("base"))
    yield started
    started.close()


def partial(folder: Path) -> list[str]:
    return [one.name for one in folder.rglob("*.tmp")]


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.002)


def version_in(path: Path) -> int:
    """The one that the whole file is full of."""
    tensors, metadata = read(path, FILE)
    values = {float(one) for tensor in tensors.values() for one in tensor.flatten()}
    assert tensors.keys() == {"a", "b"} and values == {float(metadata["version"])}
    return int(metadata["version"])


def test_killed_at_any_moment_a_save_leaves_whole_files(nursery, tmp_path):
    draw, newest = random.Random(1), 0
    for kill in range(KILLS):
        folder = tmp_path / str(kill)
        folder.mkdir()
        saving = nursery.start("save", folder=str(folder))
        until((folder / "encoder.safetensors").exists)
        time.sleep(draw.uniform(0.0, 0.3))
        nursery.kill(saving)
        names = {one.stem for one in folder.glob("*.safetensors")}
        last = version_in(folder / "tensors.safetensors")
        numbered = sorted(int(name) for name in names if name.isdigit())
        assert numbered in (list(range(1, last + 1)), list(range(1, last)))
        for number in numbered:
            assert version_in(folder / f"{number}.safetensors") == number
        (layer,) = read_basis(folder / "basis.safetensors").layers
        assert layer in (f"layer_{last}", f"layer_{last - 1}")
        (layer,) = read_encoder(folder / "encoder.safetensors")[0].layers["content"]
        assert layer in (f"layer_{last}", f"layer_{last - 1}")
        assert len(partial(folder)) <= 1
        newest = max(newest, last)
    assert newest > 1


def learned(path: Path) -> dict[str, torch.Tensor]:
    return read(path, FILE)[0]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def results(nursery: Nursery, name: str) -> list[dict[str, torch.Tensor]]:
    files = sorted((nursery.output / "loras").glob(f"{name}_*.safetensors"))
    return [learned(path) for path in files]


def states(nursery: Nursery, name: str) -> list[Path]:
    return sorted((nursery.output / "craft_training" / "loras").glob(f"{name}*.safetensors"))


def test_killed_at_any_moment_a_training_goes_on_from_its_last_whole_state(nursery, tmp_path):
    nursery.run("train", name="undisturbed", steps=STEPS, notes=str(tmp_path / "notes"))
    lines = (tmp_path / "notes").read_text().splitlines()[:STEPS]
    known = dict(line.split() for line in lines)
    (expected,) = results(nursery, "undisturbed")
    draw, done, killed = random.Random(2), 0, 0
    while done < STEPS:
        seen = [path.stat().st_ino for path in states(nursery, "killed")]
        training = nursery.start("train", name="killed", steps=STEPS)
        until(lambda seen=seen: [one.stat().st_ino for one in states(nursery, "killed")] != seen)
        time.sleep(draw.uniform(0.0, 0.25) if killed else 0.0)  # two kills at least
        nursery.kill(training)
        killed += 1
        (path,) = states(nursery, "killed")
        state = learned(path)
        before, done = done, len(state["losses"])
        own = {key.removeprefix("parameter."): one for key, one in state.items()
               if key.startswith("parameter.")}  # fmt: skip
        assert digest(own) == known[str(done)] and done > before
        assert all(same(one, expected) for one in results(nursery, "killed"))
    nursery.run("train", name="killed", steps=STEPS, notes=str(tmp_path / "again"))
    assert killed > 1 and f"{STEPS} of them resumed" in (tmp_path / "again").read_text()
    assert same(results(nursery, "killed")[-1], expected)
    assert partial(nursery.output) == []


def test_two_servers_that_train_under_one_name_at_once_lose_no_result_and_no_state(
    nursery, tmp_path
):
    for seed in (1, 2):
        nursery.run("train", name=f"alone_{seed}", steps=3, seed=seed)
    both = [
        nursery.start("train", name="both", steps=3, seed=seed, meets=str(tmp_path))
        for seed in (1, 2)
    ]
    assert [nursery.wait(one) for one in both] == [0, 0], nursery.log()
    alone = [results(nursery, f"alone_{seed}")[0] for seed in (1, 2)]
    found = results(nursery, "both")
    assert len(found) == len(alone) == 2
    assert any(same(found[0], one) and same(found[1], other)
               for one, other in (alone, reversed(alone)))  # fmt: skip
    steps = [len(learned(path)["losses"]) for path in states(nursery, "both")]
    assert steps == [3, 3]
    assert partial(nursery.output) == []


def test_three_starts_under_one_name_lose_no_state_of_those_that_are_killed(nursery, tmp_path):
    """The first runs and has saved when the second begins, and so on; they end by kills, the first
    within its save window. Each has saved its first step alone."""
    running = []
    for seed in (1, 2, 3):
        saved = tmp_path / str(seed)
        running.append(
            nursery.start("begin", name="three", steps=STEPS + seed, seed=seed, saved=str(saved))
        )
        until(saved.exists)
    for process in running:
        nursery.kill(process)
    kept = [read(path, FILE) for path in states(nursery, "three")]
    assert sorted(int(metadata["steps_asked"]) for _, metadata in kept) == [9, 10, 11]
    assert [len(tensors["losses"]) for tensors, _ in kept] == [1, 1, 1]
    assert partial(nursery.output) == []
