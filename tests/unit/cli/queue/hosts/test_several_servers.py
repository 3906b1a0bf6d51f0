"""Several servers make what one makes: every job once, under the same names, whichever server goes
away or comes late; one that would give other pictures runs none."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
from collections import Counter

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.hosts import batch
from craft_lora_pack.cli.queue.journal import NAME
from craft_lora_pack.client import client, events
from fake_comfyui import FAILING_SEED, PROMPT
from fake_host import FakeHost


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The waits of a person, shortened for a test."""
    monkeypatch.setattr(client, "PATIENCE", 0.3)
    monkeypatch.setattr(client, "QUIET", 0.01)
    monkeypatch.setattr(client, "RECEIVE", 0.1)
    monkeypatch.setattr(events, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(batch, "TICK", 0.02)
    monkeypatch.setattr(batch, "RETURNS", 0.2)


@pytest.fixture
def hosts():
    """Start a host; all end with the test."""
    running = []

    def start(*given, **more):
        running.append(FakeHost(*given, **more).__enter__())
        return running[-1]

    yield start
    for one in running:
        one.__exit__()


@pytest.fixture
def queue(tmp_path, capsys):
    """Run the command on these servers: its status, stdout's and stderr's text."""
    file = tmp_path / "demo.json"
    file.write_text(json.dumps(PROMPT))

    def run(servers, *arguments, out="out"):
        places = [word for one in servers for word in ("--server", getattr(one, "url", one))]
        status = main(["queue", str(file), *places, "--out", str(tmp_path / out), *arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    run.file, run.folder = file, tmp_path
    return run


def pictures(queue, out="out"):
    return {file.name: file.read_bytes() for file in (queue.folder / out).glob("*.png")}


def lines(queue, out="out"):
    text = (queue.folder / out / NAME).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def seeds(host):
    return [prompt["2"]["inputs"]["seed"] for prompt in host.ran]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def done_once(queue, jobs, out="out"):
    """Every job has one line that says so, and a file that no other job has."""
    files = [name for line in lines(queue, out) if line["state"] == "done"
             for name in line["files"]]  # fmt: skip
    keys = Counter(line["job"] for line in lines(queue, out) if line["state"] == "done")
    return len(keys) == jobs and set(keys.values()) == {1} and sorted(files) == sorted(
        pictures(queue, out)
    ) and len(files) == jobs  # fmt: skip


MATRIX = ["--matrix", "content=dog,cat", "seed=1..10"]


def test_the_files_and_their_bytes_are_those_of_one_server(hosts, queue):
    several = [hosts() for _ in range(3)]
    status, out, err = queue(several, *MATRIX)
    assert status == 0 and out.splitlines()[-1] == "20 done, 0 done before, 0 failed", err
    assert queue([hosts()], *MATRIX, out="one")[0] == 0
    assert pictures(queue) == pictures(queue, "one") and done_once(queue, 20)
    assert all(seeds(host)[0] == 1 for host in several)  # the first job, on each
    assert sum(len(host.ran) for host in several) == 20 + 2


def test_jobs_of_the_same_name_are_numbered_in_the_matrixs_order(hosts, queue):
    prompts = ",".join(f"{'very ' * 20}long prompt {n}" for n in range(6))
    matrix = ["--matrix", f"prompt={prompts}"]
    assert queue([hosts(), hosts()], *matrix)[0] == 0
    assert queue([hosts()], *matrix, out="one")[0] == 0
    assert pictures(queue) == pictures(queue, "one") and len(pictures(queue)) == 6


def test_200_jobs_while_one_host_dies_and_one_comes_late(hosts, queue):
    first, second, third = hosts(), hosts(), hosts()
    late, place = [], free_port()

    def begins(number):
        if number == 20:
            late.append(hosts(port=place))

    second.at_job = lambda number: second.stop() if number == 10 else None
    third.at_job = begins
    servers = [first, second, third, f"http://127.0.0.1:{place}"]
    status, out, err = queue(servers, "--matrix", "seed=101..300")
    assert status == 0 and out.splitlines()[-1] == "200 done, 0 done before, 0 failed", err
    assert done_once(queue, 200) and len(late[0].ran) > 1
    assert f"{second.url} is gone" in err and f"{servers[3]} is gone" in err
