"""What `find-best` does when the disk is full, the server is gone, or answers what no ComfyUI does;
the search itself is tested on the real server."""

from __future__ import annotations

import errno
import json
import math
import re
import threading
from contextlib import nullcontext

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.find_best import (
    FILES,
    NODE,
    NOTICE,
    SO_FAR,
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
from craft_lora_pack.craft_core.errors import CraftError, plain
from fake_comfyui import FakeComfyUI

from launcher.paths import ROOT

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
        _result(client, {}, SearchProgress("1"))


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


# Searches that are stopped

FOUND_SO_FAR = {"node": "1", "text": f"Stopped after 3{ANSI}", "preset": '{"cfg": 2.0}'}


class Stopping(Searching):
    """Its search is told to stop, or stops by itself, and says `last` of it before it ends."""

    last = FOUND_SO_FAR
    by_itself = False

    def __init__(self):
        super().__init__()
        self.is_heard = threading.Event()

    def listen(self, client_id, socket):
        super().listen(client_id, socket)
        self.is_heard.set()

    def take(self, body):
        self.bodies.append(body)
        self.waiting.append(body["prompt_id"])
        assert self.is_heard.wait(60)
        self._send(body, "progress", {"node": "1", "value": 3, "max": 8})
        if self.by_itself:
            self.cancel(body["prompt_id"])
        return 200, {"prompt_id": body["prompt_id"], "node_errors": {}}

    def cancel(self, prompt_id):
        if prompt_id in self.waiting:
            self._send(self.bodies[-1], NOTICE, self.last)
            messages = [["execution_interrupted", {"node_id": "1", "node_type": NODE}]]
            self.history[prompt_id] = {"status": {"status_str": "error", "messages": messages}}
        super().cancel(prompt_id)


@pytest.fixture
def stopping(monkeypatch, tmp_path, capsys):
    """Run the command for a search that is stopped: its status, and what it printed."""
    monkeypatch.setattr(one_client, "RECEIVE", 0.02)
    file, out, press = tmp_path / "w.json", tmp_path / "out", SearchProgress.__call__
    file.write_text(json.dumps({"1": {"class_type": NODE, "inputs": {}}}))

    def run(last=FOUND_SO_FAR, by_itself=False, times=1):
        """times: how often Ctrl-C is pressed."""
        left = [] if by_itself else [None] * times

        def show(self, kind, data):
            press(self, kind, data)
            if left and kind in ("progress", NOTICE):
                left.pop()
                raise KeyboardInterrupt

        monkeypatch.setattr(SearchProgress, "__call__", show)
        with Stopping() as server:
            server.last, server.by_itself = last, by_itself
            status = main(["find-best", str(file), "--server", server.url, "--out", str(out)])
            assert by_itself or server.cancelled
        return status, capsys.readouterr()

    run.out = out
    return run


@pytest.mark.parametrize("by_itself", [False, True])
def test_what_a_stopped_search_has_found_is_printed_and_written(stopping, by_itself):
    status, said = stopping(by_itself=by_itself)
    assert status == (1 if by_itself else 130)
    report, preset = (stopping.out / SO_FAR[name] for name in ("report", "preset"))
    assert sorted(stopping.out.iterdir()) == sorted([report, preset])
    assert said.out == f"Stopped after 3{plain(ANSI)}\n{preset}\n"
    assert report.read_text("utf-8").startswith("Stopped after 3")
    assert preset.read_text() == '{"cfg": 2.0}\n'
    last = said.err.splitlines()[-1]
    assert ("interrupted" if by_itself else "Run the same command again to go on") in last
    stopping({**FOUND_SO_FAR, "preset": "{}"})  # a later stop says more
    assert preset.read_text() == "{}\n"


@pytest.mark.parametrize("wrong", [
    {}, {"node": "2"}, {"text": None}, {"preset": ["a"]}, {"preset": None}, {"text": {}},
], ids=repr)  # fmt: skip
def test_a_stopped_search_that_says_nothing_of_what_it_found_leaves_nothing(stopping, wrong):
    last = {**FOUND_SO_FAR, **wrong} if wrong else {"text": "8 of at most 9 pictures", "node": "1"}
    status, said = stopping(last)
    assert (status, said.out) == (130, "") and not stopping.out.exists()


def test_a_second_ctrl_c_waits_no_longer(stopping):
    status, said = stopping(times=2)
    assert status == 130 and "Run the same command again" in said.err


def test_a_folder_that_takes_no_file_does_not_hide_why_a_search_stopped(stopping):
    stopping.out.write_text("a file")
    status, said = stopping()
    assert status == 130 and said.out.startswith("Stopped after 3")
    assert "cannot be written to" in said.err
    assert "Run the same command again" in said.err.splitlines()[-1]


def test_what_was_found_so_far_goes_when_the_search_has_ended(client, tmp_path):
    for file in SO_FAR.values():
        (tmp_path / file).write_text("so far")
    _save(client, FOUND, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FILES.values())


def test_the_event_is_the_one_that_a_node_sends():
    notice = (ROOT / "comfy_adapter" / "page" / "notice.py").read_text("utf-8")
    assert f'NOTICE = "{NOTICE}"' in notice


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
