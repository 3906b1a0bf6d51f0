"""Whatever a server, a network, a journal or a workflow file does, the command ends with every job
done once or with one message; nothing is lost, nothing is made twice, and no traceback is seen."""

from __future__ import annotations

import errno
import http.client
import importlib
import json
import math
import re
import signal
import threading
import time
import urllib.error
import urllib.request

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue import lock
from craft_lora_pack.cli.queue.journal import NAME
from craft_lora_pack.cli.queue.matrix import jobs_of
from craft_lora_pack.cli.queue.saving import save_output
from craft_lora_pack.client import client, events
from craft_lora_pack.client.address import Inputs
from fake_comfyui import FAILING_SEED, OBJECT_INFO, PROMPT, FakeComfyUI

ANSI = "\x1b[31m\x07\x9b2J\u202egnp"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The waits of a person, shortened for a test."""
    monkeypatch.setattr(client, "PATIENCE", 0.05)
    monkeypatch.setattr(client, "QUIET", 0.01)
    monkeypatch.setattr(client, "RECEIVE", 0.03)
    monkeypatch.setattr(client, "BUSY", 0.1)
    monkeypatch.setattr(client, "FORGETS", 0.1)
    monkeypatch.setattr(events, "FIRST_PAUSE", 0.05)


@pytest.fixture
def server():
    with FakeComfyUI() as running:
        yield running


@pytest.fixture
def queue(server, tmp_path, capsys):
    """Run the command: its status, stdout's and stderr's text."""
    file, out = tmp_path / "demo.json", tmp_path / "out"
    file.write_text(json.dumps(PROMPT))

    def run(*arguments):
        status = main(["queue", str(file), "--server", server.url, "--out", str(out), *arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    run.file, run.out = file, out
    return run


def seeds(server):
    return [prompt["2"]["inputs"]["seed"] for prompt in server.ran]


def pictures(queue):
    return sorted(file.name for file in queue.out.glob("*.png"))


# The connection

FAULTS = {
    "reset": lambda _: ConnectionResetError("reset"),
    "time-out": lambda _: TimeoutError("timed out"),
    "cut": lambda _: http.client.IncompleteRead(b"", 1),
    "502": lambda address: urllib.error.HTTPError(address, 502, "Bad Gateway", None, None),
}


@pytest.mark.parametrize("cuts", [1, 3])
def test_a_websocket_that_is_cut_ends_no_job(server, queue, cuts):
    ran = server._run

    def run(body):
        for _ in range(cuts):
            time.sleep(0.05)
            server.cut()
        ran(body)

    server._run = run
    status, out, _ = queue("--matrix", "seed=1..3")
    assert status == 0 and "3 done, 0 done before, 0 failed" in out
    assert seeds(server) == [1, 2, 3] and len(pictures(queue)) == 3


def test_a_websocket_is_opened_again_and_its_events_are_seen(server, queue):
    def run(body):
        server.cut()
        while body["client_id"] not in server._sockets:
            time.sleep(0.01)
        FakeComfyUI._run(server, body)

    server._run = run
    _, _, err = queue("--set", "seed=1")
    assert "Save" in err  # the last node, of which only an event tells


def test_without_any_websocket_the_history_tells(server, queue):
    server.listens = False
    status, out, _ = queue("--matrix", "seed=1..2")
    assert status == 0 and "2 done" in out and seeds(server) == [1, 2]


def test_a_job_that_a_restart_forgets_is_queued_again(server, queue):
    ran, restarted = server._run, []

    def run(body):
        if restarted:
            ran(body)
        else:
            restarted.append(True)
            server.forget()
            server.cut()

    server._run = run
    status, out, _ = queue("--matrix", "seed=1..2")
    assert status == 0 and "2 done" in out
    assert seeds(server) == [1, 2] and len(server.queued) == 3


def test_a_job_whose_acceptance_is_lost_on_the_way_is_not_queued_twice(server, queue, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 5.0)
    post, lost = client.Client.post_json, []

    def loses(self, path, body, *rest):
        answer = post(self, path, body, *rest)
        if path == "/prompt" and not lost:
            lost.append(path)
            raise ConnectionResetError("cut")
        return answer

    monkeypatch.setattr(client.Client, "post_json", loses)
    status, out, _ = queue("--matrix", "seed=1..2")
    assert lost and status == 0 and "2 done" in out
    assert seeds(server) == [1, 2] and len(server.queued) == 2


def test_a_job_that_failed_before_its_acceptance_was_asked_again_is_not_queued_twice(
    server, queue, monkeypatch
):
    monkeypatch.setattr(client, "PATIENCE", 5.0)
    post = client.Client.post_json

    def loses(self, path, body, *rest):
        post(self, path, body, *rest)
        while path == "/prompt" and body["prompt_id"] not in server.history:
            time.sleep(0.01)
        raise ConnectionResetError("cut")

    monkeypatch.setattr(client.Client, "post_json", loses)
    status, _, err = queue("--set", f"seed={FAILING_SEED}")
    assert status == 1 and "unlucky" in err and len(server.queued) == 1


@pytest.mark.parametrize("path", ["/queue", "/history", "/view"])
@pytest.mark.parametrize("fault", FAULTS)
def test_any_question_about_a_job_is_asked_again(server, queue, monkeypatch, path, fault):
    """Every other one breaks. Also of a job that an earlier command left on the server, and of one
    that waits long."""
    leave_queued(queue, "seed=1")
    ran, opened, asked = server._run, urllib.request.OpenerDirector.open, []

    def breaks(self, request, *rest, **more):
        address = getattr(request, "full_url", request)
        if path in address:
            asked.append(address)
            if len(asked) % 2:
                raise FAULTS[fault](address)
        return opened(self, request, *rest, **more)

    def slow(body):
        time.sleep(0.3)  # until the queue is asked
        ran(body)

    server._run = slow
    monkeypatch.setattr(client, "PATIENCE", 5.0)
    monkeypatch.setattr(urllib.request.OpenerDirector, "open", breaks)
    status, out, _ = queue("--matrix", "seed=1..2")
    assert len(asked) >= 4 and status == 0 and "2 done" in out
    assert seeds(server) == [1, 2] and len(pictures(queue)) == 2


def test_patience_begins_with_the_first_break(monkeypatch):
    """A download or a time-out that takes longer than it is tried once more."""
    clock, answers = [0.0], iter([client.ServerGone("late"), "here"])
    monkeypatch.setattr(client.time, "monotonic", lambda: clock[0])

    def ask():
        clock[0] += 60.0
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert client.Client("http://host")._patiently(ask) == "here"


def test_a_server_that_chooses_ids_itself_is_followed_by_them(server, queue):
    take = server.take

    def other(body):
        return take(body | {"prompt_id": f"own-{len(server.queued)}"})

    server.take = other
    assert queue("--matrix", "seed=1..2")[0] == 0
    assert set(server.history) == {"own-0", "own-1"}


def test_the_history_is_asked_while_events_keep_coming(server, queue):
    stop = threading.Event()

    def floods(body):
        server.ran.append(body["prompt"])
        server.history[body["prompt_id"]] = {"status": {"status_str": "success"}, "outputs": {}}
        while not stop.is_set():
            server._send(body | {"prompt_id": "another"}, "progress", {"value": 1, "max": 2})
            time.sleep(0.001)

    server._run = floods
    try:
        assert queue("--set", "seed=1")[0] == 0
    finally:
        stop.set()


def test_the_time_limit_is_looked_at_while_events_keep_coming(server):
    stop = threading.Event()

    def floods(body):
        while not stop.is_set():
            server._send(body, "progress", {"value": 1, "max": 2})
            time.sleep(0.001)

    server._run = floods
    one = client.Client(server.url)
    try:
        with one.listening() as listened, pytest.raises(client.RemoteError, match="time limit"):
            one.follow(listened, one.queue(PROMPT, prompt_id="a"), lambda *_: None, 0.5)
    finally:
        stop.set()


def test_ctrl_c_ends_the_batch_though_the_server_does_not_answer_it(server, queue, monkeypatch):
    def interrupted(*_):
        server.said["/queue"] = server.said["/interrupt"] = lambda _: b"<html>"
        raise KeyboardInterrupt

    monkeypatch.setattr(client.Client, "follow", interrupted)
    assert queue("--matrix", "seed=1..2", "--interrupt-server")[0] == 130
    assert len(server.queued) == 1


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_job_that_waits_says_behind_how_many(server, queue, ahead):
    server.waiting += [f"other-{number}" for number in range(ahead)]
    ran = server._run

    def run(body):
        time.sleep(0.4)
        ran(body)

    server._run = run
    status, _, err = queue("--set", "seed=1")
    said = re.findall(r"waiting behind (\d+ jobs?)", err)
    assert status == 0 and set(said) == ({f"{ahead} job{'s' * (ahead > 1)}"} if ahead else set())


def test_an_output_that_does_not_change_is_saved_once(server, queue):
    def with_another(content):
        """What a node says that had nothing new to do: its file of the first job."""
        answer = json.loads(content)
        for record in answer.values():
            image = {"filename": "p_77.png", "subfolder": "", "type": "output"}
            record["outputs"]["9"] = {"images": [image]}
        return json.dumps(answer).encode()

    server.said["/history"] = with_another
    assert queue("--matrix", "seed=1..3")[0] == 0
    own = [name for name in pictures(queue) if "seed-2" in name or "seed-3" in name]
    assert len(pictures(queue)) == 4 and len(own) == 2
    assert "0 done, 3 done before" in queue("--matrix", "seed=1..3")[1]


# Names and folders


def test_two_commands_in_one_folder_do_not_meet(server, queue):
    queue.out.mkdir()
    with lock.held(queue.out):
        status, _, err = queue("--matrix", "seed=1..2")
    assert status == 1 and "is being written to by process" in err and err.count("\n") == 1
    assert server.ran == [] and pictures(queue) == []
    (queue.out / lock.NAME).write_text("left by a command that was killed")
    assert queue("--matrix", "seed=1..2")[0] == 0
    assert not (queue.out / lock.NAME).exists()


def test_a_name_is_taken_by_one_of_many_writers(tmp_path):
    (job,) = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], [], [])
    names: list[str] = []

    def writes(number):
        for _ in range(20):
            content = str(number).encode()
            names.append(save_output(content, tmp_path, "demo", "demo", job, "a.bin"))

    writers = [threading.Thread(target=writes, args=(number,)) for number in range(8)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert len(set(names)) == len(names) == 160
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)


def is_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = {
    "a picture": ("craft_lora_pack.craft_core.writing.os.fsync", is_full),
    "a picture's place": ("craft_lora_pack.craft_core.writing._place", is_full),
    "that a job is queued": ("craft_lora_pack.cli.queue.journal.Journal.queued", is_full),
    "that a job is done": ("craft_lora_pack.cli.queue.journal.Journal.done", is_full),
    "the folder": ("pathlib.Path.mkdir", is_full),
    "the lock": ("craft_lora_pack.cli.queue.lock._opened", is_full),
}


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_ends_the_batch_and_loses_nothing(server, queue, monkeypatch, what):
    with monkeypatch.context() as patched:
        patched.setattr(*FULL[what])
        status, _, err = queue("--matrix", "seed=1..3")
    assert status == 1 and "No space left" in err and "--out" in err
    assert err.splitlines()[-1].startswith("Error: ")
    left = {file.suffix for file in queue.out.iterdir()} if queue.out.exists() else set()
    assert left <= {".jsonl"} and pictures(queue) == []
    status, out, _ = queue("--matrix", "seed=1..3")
    assert status == 0 and "3 done" in out
    assert seeds(server) == [1, 2, 3] and len(pictures(queue)) == 3


@pytest.mark.parametrize("size", [1, 50, 100, 250])
def test_a_journal_that_is_cut_by_a_full_disk_is_gone_on_with(server, queue, size):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write is an error
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        status, _, err = queue("--matrix", "seed=1..3")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert status == 1 and "cannot be written to" in err
    status, out, _ = queue("--matrix", "seed=1..3")
    assert status == 0 and "3 done" in out and len(pictures(queue)) == 3
    assert seeds(server) == [1, 2, 3]


@pytest.mark.parametrize("fault", [ValueError, KeyError, AssertionError])
def test_a_fault_of_the_program_is_not_told_as_one_of_the_folder(server, queue, monkeypatch, fault):
    def breaks(*_):
        raise fault("ours")

    monkeypatch.setattr("craft_lora_pack.cli.queue.batch.Batch.run", breaks)
    with pytest.raises(fault, match="ours"):
        queue()


# Answers

DEEP = b"[" * 5000 + b"]" * 5000
BODIES = {
    "null": b"null",
    "number": b"7",
    "list": b"[1, 2]",
    "empty list": b"[]",
    "empty table": b"{}",
    "deep": DEEP,
    "deep table": b'{"a":' * 500 + b"1" + b"}" * 500,
    "large number": b'{"prompt_id": ' + b"9" * 5000 + b"}",
    "NaN": b"NaN",
    "HTML": b"<!doctype html><title>Sign in</title>",
    "no UTF-8": b"\xff\xfe\x00",
    "nothing": b"",
    "large": b"[" + b"1," * 500_000 + b"1]",
    "control characters": json.dumps({"error": ANSI, "prompt_id": ANSI}).encode(),
}
VALUES = (None, 7, 10**300, 10**350, ANSI, "\ud800.png", [None], {})
FURTHER = (math.nan, 1e999, "a", True, [], [1], [[]], {"a": 1})  # of kinds that others are of
every_value = pytest.mark.parametrize(
    "new",
    [*VALUES, *(pytest.param(value, marks=pytest.mark.sweep) for value in FURTHER)],
    ids=lambda value: repr(value)[:20],
)
PATHS = ("/object_info", "/prompt", "/history", "/queue", "/view")


def is_plain(text: str) -> bool:
    return re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text) is None


def ends_in_words(queue, *arguments):
    status, out, err = queue(*(arguments or ("--matrix", "seed=1..2")))
    assert status in (0, 1)
    assert "Traceback" not in out + err and is_plain(out + err)
    if status:
        assert err.splitlines()[-1].startswith("Error: ") and len(err.splitlines()[-1]) <= 2010
    return status, out, err


def leave_queued(queue, matrix):
    """A journal whose jobs are with the server, so that it is asked for its queue."""
    queue.out.mkdir(exist_ok=True)
    jobs = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], [matrix], [])
    lines = [{"job": one.key, "state": "queued", "prompt_id": "a-1"} for one in jobs]
    (queue.out / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", BODIES)
def test_another_answer_is_told_in_words(server, queue, path, body):
    server.said[path] = lambda _: BODIES[body]
    if path == "/queue":
        leave_queued(queue, "seed=1..2")
    status, _, _ = ends_in_words(queue)
    if path == "/prompt":  # the queue may tell that a job was taken all the same
        assert len(pictures(queue)) == (2 if status == 0 else 0) and len(server.ran) <= 2
    else:
        assert status == 1 and pictures(queue) == []


def changed(value, new):
    """Every value like this one with one part replaced or left out."""
    yield new
    items = list(value.items()) if isinstance(value, dict) else None
    if items is None and isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items or ():
        if isinstance(value, dict):
            yield {name: one for name, one in value.items() if name != key}
        for one in changed(inner, new):
            copy = value.copy()
            copy[key] = one
            yield copy


@pytest.mark.parametrize("path", ["/prompt", "/history", "/queue"])
@every_value
def test_an_answer_with_one_part_of_another_type_is_told_or_passed_over(server, queue, path, new):
    """Each part of what the server says, one after another, over several batches of jobs."""
    asked, parts = 0, 1

    def change(content):
        nonlocal asked, parts
        variants = list(changed(json.loads(content), new))
        asked, parts = asked + 1, len(variants)
        return json.dumps(variants[asked % parts]).encode()

    server.said[path] = change
    for first in range(1, 60, 2):
        if asked > parts:
            break
        matrix = f"seed={first},{first + 1}"
        if path == "/queue":
            leave_queued(queue, matrix)
            server.waiting[:] = ["another"]
        ends_in_words(queue, "--matrix", matrix)
    assert asked > parts


@every_value
def test_nodes_with_one_part_of_another_type_are_told_or_passed_over(server, queue, new):
    matrix = ("--matrix", "seed=1..2", "method.alpha=0.5", "style=ink", "--set", "method=mixed")
    page = json.dumps(PAGE)
    for number, variant in enumerate(changed(OBJECT_INFO, new)):
        if variant == new:
            continue
        server.said["/object_info"] = lambda _, one=variant: json.dumps(one).encode()
        queue.file.write_text(page if number % 2 else json.dumps(PROMPT))
        ends_in_words(queue, *matrix, "--dry-run")


DRAWN_AS_ANOTHER = [
    [kind, {"widgetType": drawn, "options": options, "default": options}]
    for kind in ("STRING", "COMBO", "COMFY_DYNAMICCOMBO_V3", [], ["a"])
    for drawn in ("STRING", "INT", "COMBO", "COMFY_DYNAMICCOMBO_V3", "", None)
    for options in (["a"], [{"key": "a"}], [{"key": [1]}, None, {}], {"a": 1})
]


def test_an_input_that_is_drawn_as_another_is_read_or_passed_over(server, queue):
    for spec in DRAWN_AS_ANOTHER:
        info = json.loads(json.dumps(OBJECT_INFO))
        info["Router"]["input"]["required"]["method"] = spec
        server.said["/object_info"] = lambda _, one=info: json.dumps(one).encode()
        ends_in_words(queue, "--set", "1.method=a", "--dry-run")


def test_places_in_the_queue_may_be_any_numbers_and_names_of_files_any_texts(server, queue):
    places = [[one, "another"] for one in (10**350, -(10**350), math.nan, 1e999, "\ud800", None)]
    waiting = {"queue_running": [], "queue_pending": places}
    server.said["/queue"] = lambda _: json.dumps(waiting).encode()
    server.said["/history"] = lambda content: content.replace(b'"x_', b'"\\ud800\\u202e_')
    leave_queued(queue, "seed=1..2")
    status, out, _ = ends_in_words(queue, "--matrix", "seed=1..2")
    assert status == 0 and "2 done" in out and len(pictures(queue)) == 2


UNFORESEEN = [
    KeyError("x"), IndexError("x"), TypeError("x"), ValueError("x"), OverflowError("x"),
    RecursionError("x"), AttributeError("x"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "x"),
]  # fmt: skip


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["client.client.record_of", "cli.queue.batch.stems"])
def test_an_answer_that_nobody_foresaw_fails_its_job_alone(
    server, queue, monkeypatch, where, error
):
    room, _, name = f"craft_lora_pack.{where}".rpartition(".")
    real = getattr(importlib.import_module(room), name)

    def breaks(*given):
        if len(server.queued) == 2:
            raise error
        return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(f"{room}.{name}", breaks)
        status, out, err = ends_in_words(queue, "--matrix", "seed=1..3")
    assert status == 1 and "2 done, 0 done before, 1 failed" in out
    assert type(error).__name__ in err and len(pictures(queue)) == 2
    assert "1 done, 2 done before, 0 failed" in queue("--matrix", "seed=1..3")[1]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["client.client.known_nodes", "cli.queue.command.Inputs"])
def test_nodes_that_nobody_foresaw_are_told(queue, monkeypatch, where, error):
    def breaks(*_):
        raise error

    monkeypatch.setattr(f"craft_lora_pack.{where}", breaks)
    status, _, err = ends_in_words(queue)
    assert status == 1 and type(error).__name__ in err


EVENTS = (
    b"", b"null", b"{", DEEP, b'{"type": 1}', b'{"type": "progress", "data": []}',
    *(json.dumps({"type": kind, "data": {"prompt_id": "ID", **data}}).encode()
      for kind in ("progress", "executing", "execution_cached", "status", client.WAITING, ANSI)
      for value in (*VALUES, *FURTHER)
      for data in ({"node": value}, {"value": value, "max": value}, {"value": 1, "max": value},
                   {"nodes": value})),
)  # fmt: skip


def test_no_event_ends_a_job(server, queue):
    ran = server._run

    def run(body):
        for event in EVENTS:
            payload = event.replace(b"ID", body["prompt_id"].encode())
            head = b"\x81\x7f" + len(payload).to_bytes(8, "big")
            server._sockets[body["client_id"]].sendall(head + payload)
        ran(body)

    server._run = run
    status, out, err = ends_in_words(queue, "--set", "seed=1")
    assert status == 0 and "1 done" in out


def test_what_a_server_says_cannot_act_on_the_terminal(server, queue):
    server._run = lambda body: (
        server.history.update({body["prompt_id"]: {"status": {"status_str": "error", "messages": [
            ["execution_error", {"node_id": ANSI, "node_type": ANSI, "exception_message": ANSI}],
        ]}}}),
    )  # fmt: skip
    prompt = json.loads(json.dumps(PROMPT))
    prompt["2"]["_meta"] = {"title": ANSI}
    queue.file.write_text(json.dumps(prompt))
    status, out, err = ends_in_words(queue, "--set", "seed=1", "--set", f"prompt={ANSI}")
    assert status == 1 and "failed" in err
    journal = (queue.out / NAME).read_text("utf-8")
    assert is_plain(journal)


# Files

JOURNALS = {
    "no UTF-8": b"\xff\xfe\xff\n",
    "a list": b"[1]\n",
    "a number": b"1\n",
    "null": b"null\n",
    "deep": DEEP + b"\n",
    "a job of another type": b'{"job": [], "state": "done"}\n',
    "a state of another type": b'{"job": "a", "state": {}}\n',
    "files of another type": b'{"job": "a", "state": "done", "files": 7}\n',
    "a file elsewhere": b'{"job": "a", "state": "done", "files": ["../../a"]}\n',
    "an id that is none": b'{"job": "a", "state": "queued", "prompt_id": "a\\r\\nHost: b"}\n',
    "a client that is none": b'{"job": "a", "state": "queued", "client": ["a"]}\n',
    "a queued job without an id": b'{"job": "KEY", "state": "queued"}\n',
    "a large number": b'{"job": "a", "state": "done", "files": ' + b"9" * 9999 + b"}\n",
    "a long line": b'{"job": "' + b"a" * (1 << 23) + b'", "state": "done"}\n',
    "zeros": b"\0" * 1000,
    "control characters": json.dumps({"job": ANSI, "state": ANSI, ANSI: ANSI}).encode(),
}


@pytest.mark.parametrize("content", JOURNALS)
def test_any_journal_is_read_or_refused(server, queue, content):
    (job,) = jobs_of(Inputs(PROMPT, OBJECT_INFO), ["seed=1"], [], [])
    queue.out.mkdir()
    (queue.out / NAME).write_bytes(JOURNALS[content].replace(b"KEY", job.key.encode()))
    status, out, _ = ends_in_words(queue, "--set", "seed=1")
    assert (status == 0) == (len(pictures(queue)) == 1) and len(server.ran) <= 1


def test_a_journal_that_is_a_folder_is_told(server, queue):
    (queue.out / NAME).mkdir(parents=True)
    assert ends_in_words(queue)[0] == 1


PAGE = {
    "nodes": [
        {"id": 1, "type": "Router", "widgets_values": ["cat.safetensors", "ink.safetensors", 1.0,
         "plain", "a cat"], "outputs": [{"name": "MODEL", "type": "MODEL"}]},
        {"id": 2, "type": "inner", "inputs": [{"name": "model", "type": "MODEL", "link": 1}],
         "outputs": [{"name": "IMAGE", "type": "IMAGE"}], "widgets_values": []},
        {"id": 3, "type": "Save", "widgets_values": ["x"],
         "inputs": [{"name": "images", "type": "IMAGE", "link": 2}]},
    ],
    "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "IMAGE"]],
    "definitions": {"subgraphs": [{
        "id": "inner",
        "inputs": [{"name": "model", "linkIds": [1]}],
        "nodes": [
            {"id": 5, "type": "Sampler", "widgets_values": [7, "fixed", True, 1.0],
             "inputs": [{"name": "model", "type": "MODEL", "link": 1}],
             "outputs": [{"name": "IMAGE", "type": "IMAGE"}]},
        ],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0},
            {"id": 2, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }]},
}  # fmt: skip


@every_value
@pytest.mark.parametrize("whole", [PAGE, PROMPT], ids=["page", "prompt"])
def test_a_workflow_with_one_part_of_another_type_is_run_or_told(queue, whole, new):
    for variant in changed(whole, new):
        queue.file.write_text(json.dumps(variant))
        ends_in_words(queue, "--dry-run")


def holding(depth: int, width: int = 2) -> dict:
    """Subgraphs, each with several of the next inside."""
    graphs = [
        {"id": f"g{level}", "inputs": [], "links": [],
         "nodes": [{"id": n, "type": f"g{level + 1}"} for n in range(width)]}
        for level in range(depth)
    ]  # fmt: skip
    return {"nodes": [{"id": 1, "type": "g0"}], "definitions": {"subgraphs": graphs}}


FILES = {
    **BODIES,
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(PAGE).encode(),
    "cut short": json.dumps(PAGE).encode()[:-20],
    "subgraphs in subgraphs": json.dumps(holding(40)).encode(),
    "a subgraph in itself": json.dumps(holding(1)).replace("g1", "g0").encode(),
    "a long chain of subgraphs": json.dumps(holding(3000, 1)).encode(),
    "17 MB": b" " * 17_000_000 + b"{}",
}


@pytest.mark.parametrize("content", FILES)
def test_any_workflow_file_is_run_or_told(queue, content):
    queue.file.write_bytes(FILES[content])
    begun = time.process_time()
    status, _, _ = ends_in_words(queue, "--dry-run")
    assert time.process_time() - begun < 20
    assert status == (content != "a byte order mark")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set", "seed=" + "9" * 5000),
        ("--set", "strength=1e999"),
        ("--set", "seed=\udc80"),
        ("--set", "prompt=\udc80\0"),
        ("--matrix", "seed=1..2.." + "0." + "0" * 5000 + "1"),
        ("--matrix", "seed=" + "9" * 5000 + "..1"),
        ("--matrix", "seed=@\0"),
        ("--matrix", "prompt=@" + "a" * 5000),
        ("--server", "http://["),
        ("--server", "http://" + "a" * 300),
        ("--server", "http://a\nb"),
        ("--server", "http://127.0.0.1:99999"),
    ],
    ids=lambda value: " ".join(value)[:30].encode("ascii", "replace").decode(),
)
def test_any_flag_is_read_or_told(queue, arguments):
    ends_in_words(queue, *arguments)


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000, "."], ids=["NUL", "long", "folder"])
@pytest.mark.parametrize("place", ["workflow", "--out"])
def test_any_path_is_read_or_told(server, queue, capsys, name, place):
    given = [name] if place == "workflow" else [str(queue.file), "--out", str(queue.out / name)]
    status = main(["queue", *given, "--server", server.url])
    err = capsys.readouterr().err
    assert status == (0 if place == "--out" and name == "." else 1)
    assert "Traceback" not in err and "\0" not in err
