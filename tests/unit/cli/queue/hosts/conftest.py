"""What tests of several servers share."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from craft_lora_pack.cli.queue.hosts import batch
from craft_lora_pack.client import client, events
from fake_comfyui import PROMPT
from fake_host import FakeHost

JOBS = ["--matrix", "content=dog,cat", "seed=101..200"]


@pytest.fixture
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
def until():
    """Wait for what another program brings about."""

    def wait(what, seconds=240.0):
        end = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < end
            time.sleep(0.02)
        return found

    return wait


@pytest.fixture
def start(tmp_path):
    """Start a program of Dask; all end with the test."""
    running = []

    def run(program, *arguments, **variables):
        log = (tmp_path / f"{len(running)}.log").open("w+")
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--no-dashboard"]
        running.append(subprocess.Popen(
            [*command, *arguments], stdout=log, stderr=log, env=os.environ | variables,
            cwd=tmp_path,
        ))  # fmt: skip
        return running[-1], log

    run.ends = running
    yield run
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def scheduler(start, until):
    """The address of one."""
    _, log = start("scheduler", "--host", "127.0.0.1", "--port", "0")
    return until(lambda: re.search(r"Scheduler at: +(tcp://\S+)", Path(log.name).read_text()))[1]


@pytest.fixture
def worker(start, scheduler):
    def run(host):
        arguments = ["--no-nanny", "--nthreads", "1", "--resources", "comfy=1"]
        process, _ = start("worker", scheduler, *arguments, COMFYUI_URL=host.url)
        return process

    return run


@pytest.fixture
def queue(tmp_path, scheduler):
    file = tmp_path / "demo.json"
    file.write_text(json.dumps(PROMPT))
    return ["queue", str(file), "--dask", scheduler, "--out", str(tmp_path / "out"), *JOBS]
