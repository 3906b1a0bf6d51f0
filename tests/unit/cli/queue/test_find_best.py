"""What `find-best` does when the disk is full, the server is gone, or answers what no ComfyUI does;
the search itself is tested on the real server."""

from __future__ import annotations

import errno
import json
import math
import re
from contextlib import nullcontext

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.find_best import (
    FILES,
    NODE,
    WATCHERS,
    SearchProgress,
    _result,
    _save,
    search_alone,
)
from craft_lora_pack.client import client as one_client
from craft_lora_pack.client.client import Client, PromptResult
from craft_lora_pack.client.errors import ServerGone
from craft_lora_pack.craft_core import writing
from craft_lora_pack.craft_core.errors import CraftError
from fake_comfyui import FakeComfyUI

ANSI = "\x1b]0;owned\x07\x1b[2Jboo\u202e\ud800"
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


# Answers


class Searching(FakeComfyUI):
    """Its search has ended when it is queued. own_ids: it chooses them itself."""

    schema = {"input": {"required": {}}, "output_name": list(WATCHERS)}  # noqa: RUF012
    own_ids = False

    def __init__(self) -> None:
        super().__init__()
        self.given = {
            "plot": {"images": [{"filename": "p_1.png", "subfolder": "", "type": "temp"}]},
            "preset": {"text": ["{}"]},
            "report": {"text": ["Best: direct"]},
        }

    def answer(self, path):
        _, asked, kind = path.partition("/object_info")
        return {NODE: self.schema} if asked else super().answer(path)

    def take(self, body):
        self.bodies.append(body)
        name = "own" if self.own_ids else body["prompt_id"]
        self.history[name] = {"status": {"status_str": "success"}, "outputs": self.given}
        return 200, {"prompt_id": name, "node_errors": {}}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(one_client, "RECEIVE", 0.02)
    with Searching() as running:
        yield running


@pytest.fixture
def search(server, tmp_path, capsys):
    """Run the command for a workflow: its status, and what it printed."""
    file, out = tmp_path / "w.json", tmp_path / "out"

    def run(prompt=None):
        file.write_text(json.dumps(prompt or {"1": {"class_type": NODE, "inputs": {}}}))
        status = main(["find-best", str(file), "--server", server.url, "--out", str(out)])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", said.out + said.err) is None
        if status:
            assert said.err.splitlines()[-1].startswith("Error: ") and not out.exists()
        return status, said

    run.out = out
    return run


@pytest.mark.parametrize("own_ids", [False, True])
def test_the_three_files_are_there_whoever_chooses_the_id(server, search, own_ids):
    server.own_ids = own_ids
    status, said = search()
    assert status == 0 and said.out.startswith("Best: direct\n")
    assert sorted(file.name for file in search.out.iterdir()) == sorted(FILES.values())


WRONG = (None, 7, 10**350, "a", [], [None], [7], {}, [{}], {"a": 1})


@pytest.mark.parametrize("name", WATCHERS)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:9])
def test_a_search_that_gave_something_else_is_told(server, search, name, wrong):
    whole = dict(server.given)
    kind = next(iter(whole[name]))
    parts = {one: value for one, value in whole.items() if one != name}
    for given in ({}, parts, parts | {name: wrong}, parts | {name: {kind: wrong}},
                  parts | {name: {kind: [wrong, wrong]}}):  # fmt: skip
        server.given = given
        if given == parts | {name: {kind: ["a", "a"]}} and name != "plot":
            continue  # a text of two lines
        assert search()[0] == 1
    server.given = whole
    assert search()[0] == 0


@pytest.mark.parametrize("slots", [*WRONG, ["plot"], ["preset", "report"]], ids=repr)
def test_a_find_best_settings_without_its_outputs_is_told(server, search, slots):
    server.schema = Searching.schema | {"output_name": slots}
    assert search()[0] == 1


def test_what_a_search_says_cannot_act_on_the_terminal(server, search):
    server.given["report"]["text"] = [ANSI, "x" * 1_000_000]
    server.given["preset"]["text"] = [ANSI]
    status, said = search()
    assert status == 0 and "boo" in said.out and len(said.out) < 30_000
    assert len((search.out / FILES["report"]).read_text("utf-8")) > 1_000_000


LINKS = ([[1], 0], [{}, 0], [None, 0], [1e999, 0], ["x"], [], [["1", 0], ["1", 0]], {"a": ["1", 0]})


@pytest.mark.parametrize("link", LINKS, ids=repr)
def test_any_input_is_a_link_or_none(server, search, link, tmp_path):
    prompt = {"1": {"class_type": NODE, "inputs": {"a": link}}}
    assert search_alone(prompt, tmp_path) == (prompt, "1")
    assert search(prompt)[0] == 0


def test_no_event_ends_a_search():
    values = (*WRONG, -1, 0, 0.5, math.nan, 1e999, True, 10**300)
    with SearchProgress("1") as show:
        for first in values:
            for second in values:
                show("progress", {"node": "1", "max": first, "value": second})
            show("progress", {"node": "1", "max": first})
            show("progress", {"node": first})


def test_an_answer_that_nobody_foresaw_ends_a_search_in_words(search, monkeypatch):
    def breaks(*_):
        raise KeyError("x")

    monkeypatch.setattr(one_client, "record_of", breaks)
    assert "KeyError" in search()[1].err
