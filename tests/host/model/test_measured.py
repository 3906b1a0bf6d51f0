"""A LoRA is measured once in its life: its numbers outlive the server, and only true ones are."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import folder_paths
import pytest
import safetensors.torch
import small_world_models as small
from craft_lora_pack.comfy_adapter.model import given, measured
from craft_lora_pack.craft_core.lora.statistics import entries
from craft_lora_pack.nodes.router import Router

PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"


@pytest.fixture(scope="module")
def world():
    return small.load()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server's user folder, and the restart of the server."""
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    given._known.clear()
    yield given._known.clear
    given._known.clear()


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """Grows by one with each layer that is measured."""
    layers: list[int] = []
    plain = entries.magnitude

    def measure(updates, k):
        layers.append(k)
        return plain(updates, k)

    monkeypatch.setattr(entries, "magnitude", measure)
    return layers


def report(world, content=small.CONTENT, style=small.STYLE) -> str:
    settings = {"layer_sets": {"layer_sets": "all"}, "method": {"method": "k_lora"}}
    return Router.execute(
        world.model, world.clip, PROMPT, content, style, content_strength=1.0, style_strength=1.0,
        **settings,
    ).result[3]  # fmt: skip


def files() -> list[Path]:
    return sorted(measured.folder().glob("*"))


def copy(name: str, path: Path) -> str:
    """A copy among the host's LoRA files."""
    shutil.copy(folder_paths.get_full_path("loras", name), path)
    return path.name


def test_a_pair_is_measured_once_over_restarts_and_under_other_names(world, server, counted):
    first = report(world)
    assert len(counted) > 100 and len(files()) == 2
    counted.clear()
    server()
    assert report(world) == first
    renamed = Path(folder_paths.get_folder_paths("loras")[0]) / "measured_again.safetensors"
    try:
        name = copy(small.CONTENT, renamed)
        assert report(world, content=name) == first.replace(small.CONTENT, name)
        assert counted == []
        changed = safetensors.torch.load_file(renamed)
        changed = {key: 2 * tensor for key, tensor in changed.items()}
        os.remove(renamed)
        safetensors.torch.save_file(changed, renamed)
        report(world, content=name)
        assert counted
    finally:
        renamed.unlink(missing_ok=True)


def test_what_was_measured_before_a_cancel_is_kept(world, server, counted, monkeypatch):
    plain = entries.magnitude

    def cancelled(updates, k):
        if len(counted) == 20:
            raise KeyboardInterrupt
        return plain(updates, k)

    monkeypatch.setattr(entries, "magnitude", cancelled)
    with pytest.raises(KeyboardInterrupt):
        report(world)
    monkeypatch.setattr(entries, "magnitude", plain)
    server()
    whole = len(counted)
    report(world)
    server()
    measured_after = len(counted) - whole
    report(world)
    assert len(counted) == whole + measured_after
    stored = sum(len(json.loads(path.read_text())) for path in files())
    assert stored == 2 * (whole + measured_after)  # abs_sum, and top_k in the same pass


def rows(change):
    """The stored numbers with a change to the first."""

    def damage(path: Path) -> None:
        found = json.loads(path.read_text())
        change(found[0])
        path.write_text(json.dumps(found))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text("7"),
        lambda path: path.write_text("[[1]]"),
        lambda path: path.write_text(" " * (measured.MOST_BYTES + 1)),
        lambda path: (path.unlink(), path.mkdir()),
        rows(lambda row: row.__setitem__(3, float("nan"))),
        rows(lambda row: row.__setitem__(3, -1.0)),
        rows(lambda row: row.__setitem__(3, "1")),
        rows(lambda row: row.__setitem__(3, {"top_k": 1.0})),
        rows(lambda row: row.pop()),
        rows(lambda row: row.__setitem__(0, "other")),
        rows(lambda row: row.__setitem__(1, "no.such.layer")),
        rows(lambda row: row.__setitem__(2, "many")),
    ],
)
def test_numbers_that_cannot_have_been_stored_are_measured_anew(world, server, counted, damage):
    first = report(world)
    count = len(counted)
    for path in files():
        damage(path)
    server()
    assert report(world) == first
    assert len(counted) == 2 * count


def test_a_folder_that_takes_no_file_stops_nothing(world, server, tmp_path):
    (tmp_path / "__craft_lora").write_text("no folder")
    assert "K-LoRA" in report(world)


def test_the_oldest_numbers_make_room(world, server, monkeypatch):
    monkeypatch.setattr(measured, "MOST_FILES", 1)
    report(world)
    assert len(files()) == 1


def test_the_host_serves_none_of_it():
    assert measured.folder().parent.name.startswith(folder_paths.SYSTEM_USER_PREFIX)


def test_what_a_killed_save_left_goes_at_the_next_one(world, server, monkeypatch):
    folder = measured.folder()
    folder.mkdir(parents=True)
    left = folder / ".0123456789abcdef.tmp"
    left.write_bytes(b"half")
    report(world)
    assert not left.exists() and list(folder.glob("*.json"))
    assert not list(folder.glob(".*"))


def test_what_cannot_be_stored_leaves_nothing(world, server, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    report(world)
    assert list(measured.folder().iterdir()) == []
