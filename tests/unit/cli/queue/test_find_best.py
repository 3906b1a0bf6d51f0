"""What `find-best` does when the disk is full or the server is gone; the search itself is tested
on the real server."""

from __future__ import annotations

import errno
from contextlib import nullcontext

import pytest
from craft_lora_pack.cli.queue.find_best import FILES, _result, _save
from craft_lora_pack.client.client import Client, PromptResult
from craft_lora_pack.client.errors import ServerGone
from craft_lora_pack.craft_core import writing
from craft_lora_pack.craft_core.errors import CraftError

FOUND = PromptResult(
    "a",
    {
        "plot": {"images": [{"filename": "plot.png"}]},
        "preset": {"text": ["{}"]},
        "report": {"text": ["Best: direct"]},
    },
)


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(Client, "fetch", lambda *_: b"picture")
    return Client("http://host")


@pytest.mark.parametrize("room", range(len(FILES)))
def test_the_same_command_runs_again_after_a_full_disk(client, tmp_path, monkeypatch, room):
    """room: how many files fit."""
    left, sync = [None] * room, writing.os.fsync

    def is_full(number):
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left.pop()
        sync(number)

    with monkeypatch.context() as patched:
        patched.setattr(writing.os, "fsync", is_full)
        with pytest.raises(CraftError, match="No space left"):
            _save(client, FOUND, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert _save(client, FOUND, tmp_path) == "Best: direct"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FILES.values())


@pytest.mark.parametrize("name", FILES.values())
def test_a_file_that_came_during_the_search_stays(client, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(writing.Taken):
        _save(client, FOUND, tmp_path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_ctrl_c_is_told_though_the_server_does_not_answer_it(client, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def gone(*_):
        raise ServerGone("gone")

    monkeypatch.setattr(Client, "listening", lambda _: nullcontext())
    monkeypatch.setattr(Client, "queue", interrupted)
    monkeypatch.setattr(Client, "cancel", gone)
    with pytest.raises(KeyboardInterrupt, match="Run the same command again"):
        _result(client, {}, lambda *_: None)
