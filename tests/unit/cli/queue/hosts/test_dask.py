"""The jobs beside real Dask workers, each a process: none is lost and none is there twice, whatever
ends. Workers need Dask alone: the command sends them the code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.hosts import dask_workers
from craft_lora_pack.cli.queue.hosts.dask_workers import DaskWorkers
from craft_lora_pack.cli.queue.journal import NAME
from craft_lora_pack.client import jobs
from craft_lora_pack.client.loras import sending
from fake_comfyui import LORAS, PROMPT
from fake_host import FakeHost

ROOT = Path(__file__).resolve().parents[5]
JOBS = ["--matrix", "content=dog,cat", "seed=101..200"]


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
def scheduler(start):
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


def until(what, seconds=240.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


IMPATIENT = "import craft_lora_pack.client.client as one; one.PATIENCE = 0.3"


def test_200_jobs_whatever_ends(worker, scheduler, queue, tmp_path, capsys):
    """One host, one worker and the command itself end, and one worker comes late."""
    with FakeHost() as one, FakeHost() as two, FakeHost() as three, FakeHost() as late:
        ends, *_ = worker(two), worker(one), worker(three)
        with DaskWorkers(scheduler) as workers:
            until(lambda: len(workers.present()) == 3)
            workers._client.run(exec, IMPATIENT)
        two.at_job = lambda number: ends.kill() if number == 10 else None
        three.at_job = lambda number: three.stop() if number == 20 else None
        one.at_job = lambda number: one.going.clear() if number == 40 else None
        late.at_job = lambda number: late.going.clear() if number == 20 else None
        first = subprocess.Popen([sys.executable, "-m", "craft_core", *queue], cwd=ROOT)
        until(lambda: not one.going.is_set())
        worker(late)
        until(lambda: not late.going.is_set())
        first.kill()
        first.wait()
        one.going.set()
        late.going.set()
        done = sum('"done"' in line for line in journal(tmp_path))
        assert main(queue) == 0
        assert f"{200 - done} done, {done} done before, 0 failed" in capsys.readouterr().out
    assert 0 < done < 200 and ends.poll() is not None
    lines = [json.loads(line) for line in journal(tmp_path)]
    files = sorted(name for line in lines if line["state"] == "done" for name in line["files"])
    assert files == [f"demo_content-{name}_seed-{seed}_00001.png"
                     for name in ("cat", "dog") for seed in range(101, 201)]  # fmt: skip
    assert files == sorted(file.name for file in (tmp_path / "out").glob("*.png"))


def test_a_scheduler_that_ends_is_told_and_so_is_none(
    worker, scheduler, queue, start, capsys, monkeypatch
):
    monkeypatch.setattr(dask_workers, "CONNECTS", 0.5)
    with FakeHost() as host:
        worker(host)
        host.at_job = lambda number: start.ends[0].kill() if number == 30 else None
        ran = subprocess.run([sys.executable, "-m", "craft_core", *queue], cwd=ROOT,
                             capture_output=True, text=True, timeout=240)  # fmt: skip
    assert ran.returncode == 1 and "the Dask scheduler" in ran.stderr, ran.stderr
    assert "stays done" in ran.stderr and "Traceback" not in ran.stderr, ran.stderr
    assert main(queue) == 1
    assert "does not answer" in capsys.readouterr().err


def test_a_lora_that_a_host_lacks_goes_piece_by_piece_through_its_worker(
    worker, scheduler, queue, tmp_path, capsys
):
    """The file is at the command; a worker holds no more of it than a piece."""
    content = os.urandom(2 * sending.PIECE + 1000)
    sha256 = hashlib.sha256(content).hexdigest()
    folder = tmp_path / "loras"
    folder.mkdir()
    (folder / "cat.safetensors").write_bytes(content)
    hashes = dict.fromkeys(LORAS, "a" * 64) | {"cat.safetensors": sha256}
    lacks = {name: one for name, one in hashes.items() if one != sha256}
    with FakeHost(hashes=hashes) as sound, FakeHost(hashes=lacks) as lacking:
        worker(sound)
        worker(lacking)
        with DaskWorkers(scheduler) as workers:
            until(lambda: len(workers.present()) == 2)
        sound.at_job = lambda number: sound.going.clear() if number == 3 else None
        lacking.at_job = lambda number: sound.going.set() if number == 2 else None
        jobs_of_both = ["--matrix", "content=cat.safetensors", "seed=101..110"]
        assert main([*queue[:-3], *jobs_of_both, "--send-loras", str(folder)]) == 0
    said = capsys.readouterr()
    assert lacking.received == {"cat.safetensors": content} and not sound.received, said.err
    assert "10 done, 0 done before, 0 failed" in said.out and "left out" not in said.err
    assert len(lacking.ran) > 1 and f"cat.safetensors is there ({len(content)} bytes)" in said.err


def test_workers_run_the_code_of_the_last_command(worker, scheduler, tmp_path, monkeypatch):
    """Also those that ran an earlier one's, of whatever module."""
    root = dask_workers.ROOT
    with FakeHost() as host:
        worker(host)
        for version in (1, 2):
            place = tmp_path / f"version_{version}"
            for room in ("client", "craft_core"):
                shutil.copytree(root / room, place / room, ignore=shutil.ignore_patterns("__*__"))
            (place / "craft_core" / "__init__.py").touch()
            (place / "client" / "__init__.py").touch()
            with (place / "client" / "facts.py").open("a") as file:
                file.write(f"\nMISSING = 'version {version}'\n")
            monkeypatch.setattr(dask_workers, "ROOT", place)
            with DaskWorkers(scheduler) as workers:
                (name,) = until(workers.present)
                told = workers.call(name, jobs.facts_here, (["Nothing"], []), "")
                assert told["facts"]["the node Nothing"] == f"version {version}"


def journal(folder):
    return (folder / "out" / NAME).read_text("utf-8").splitlines()
