"""What real Dask workers are given: LoRAs that their hosts lack, and the command's own code, since
they have Dask alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.hosts import dask_workers
from craft_lora_pack.cli.queue.hosts.dask_workers import DaskWorkers
from craft_lora_pack.client.errors import RemoteError, ServerGone
from craft_lora_pack.client.loras import sending
from craft_lora_pack.client.near import jobs
from fake_comfyui import LORAS, OBJECT_INFO, PROMPT
from fake_host import FakeHost


def test_a_lora_that_a_host_lacks_goes_piece_by_piece_through_its_worker(
    worker, scheduler, queue, until, tmp_path, capsys
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
        both_work = threading.Event()
        sound.at_job = lambda number: number == 3 and both_work.wait(240)
        lacking.at_job = lambda number: number == 2 and both_work.set()
        jobs_of_both = ["--matrix", "content=cat.safetensors", "seed=101..110"]
        assert main([*queue[:-3], *jobs_of_both, "--send-loras", str(folder)]) == 0
    said = capsys.readouterr()
    assert lacking.received == {"cat.safetensors": content} and not sound.received, said.err
    assert "10 done, 0 done before, 0 failed" in said.out and "left out" not in said.err
    assert len(lacking.ran) > 1 and f"cat.safetensors is there ({len(content)} bytes)" in said.err


def test_workers_run_the_code_of_the_last_command(worker, scheduler, until, tmp_path, monkeypatch):
    """Also those that ran an earlier one's, of whatever module."""
    root = dask_workers.ROOT
    with FakeHost() as host:
        worker(host)
        for version in (1, 2):
            monkeypatch.setattr(dask_workers, "ROOT", of_version(version, root, tmp_path))
            with DaskWorkers(scheduler) as workers:
                (name,) = until(workers.present)
                told = workers.call(name, jobs.facts_here, (["Nothing"], []), "", None)
                assert told["facts"]["the node Nothing"] == f"version {version}"


def of_version(version, root, folder):
    """A copy of the code that is another version."""
    place = folder / f"version_{version}"
    for room in ("client", "craft_core"):
        shutil.copytree(root / room, place / room, ignore=shutil.ignore_patterns("__*__"))
    (place / "craft_core" / "__init__.py").touch()
    (place / "client" / "__init__.py").touch()
    with (place / "client" / "facts.py").open("a") as file:
        file.write(f"\nMISSING = 'version {version}'\n")
    return place


IMPATIENT = "import craft_lora_pack.client.client as one; one.PATIENCE = 0.3"


@pytest.mark.parametrize("same", [True, False], ids=["same version", "another"])
def test_a_job_whose_host_ends_is_moved_though_another_command_came(
    worker, scheduler, until, tmp_path, monkeypatch, same
):
    """A second command sends its code while a job of the first one runs."""
    ends, answers = threading.Event(), []
    with FakeHost() as host:
        worker(host)
        host.at_job = lambda number: ends.wait(240)
        with DaskWorkers(scheduler) as one, DaskWorkers(scheduler) as two:
            (name,) = until(one.present)
            until(two.present)
            one._client.run(exec, IMPATIENT)

            def run():
                try:
                    given = ("me", PROMPT, None, "own", None)
                    answers.append(one.call(name, jobs.run, given, "picture-1", None))
                except RemoteError as error:
                    answers.append(error)

            runs = threading.Thread(target=run)
            runs.start()
            until(lambda: "own" in host.waiting)
            if not same:
                root = of_version(3, dask_workers.ROOT, tmp_path)
                monkeypatch.setattr(dask_workers, "ROOT", root)
            two._send_code()
            assert two.aside(name, jobs.nodes, ()).keys() == OBJECT_INFO.keys()
            host.stop()
            runs.join(240)
        ends.set()
    assert [type(one) for one in answers] == [ServerGone], answers


def test_a_command_is_told_of_its_jobs_while_another_has_the_only_worker(
    worker, scheduler, queue, until
):
    goes_on = threading.Event()
    with FakeHost() as host:
        worker(host)
        host.at_job = lambda number: goes_on.wait(240)
        with DaskWorkers(scheduler) as one:
            (name,) = until(one.present)
            given = ("me", PROMPT, None, "own", None)
            runs = threading.Thread(target=one.call, args=(name, jobs.run, given, "other", None))
            runs.start()
            until(lambda: "own" in host.waiting)
            command = [sys.executable, "-m", "craft_core", *queue, "--dry-run"]
            told = subprocess.run(
                command, cwd=dask_workers.ROOT, capture_output=True, text=True, timeout=120
            )
            goes_on.set()
            runs.join(240)
    assert told.returncode == 0 and "200/200" in told.stdout, told.stderr


HASTY = "import craft_lora_pack.client.client as one; one.FORGETS = 0.05; one.RECEIVE = 0.05"


def test_a_job_on_a_worker_tells_behind_how_many_it_waits(worker, scheduler, until):
    told: list[int] = []
    with FakeHost() as host:
        worker(host)
        host.waiting += ["another", "and another"]
        host.at_job = lambda number: until(lambda: told)
        with DaskWorkers(scheduler) as workers:
            (name,) = until(workers.present)
            workers._client.run(exec, HASTY)
            given = ("me", PROMPT, None, "own", None)
            made = workers.call(name, jobs.run, given, "picture-1", told.append)
            until(lambda: told[-1] == 0)
            assert 2 in told and len(made) == 1
            assert workers.call(name, jobs.nodes, (), "", None)
            assert not workers._tells  # nothing is kept of what has ended


def test_a_call_beside_needs_no_turn(worker, scheduler, until):
    """A worker that runs another command's job passes on a LoRA's pieces, and cancels."""
    goes_on, answers = threading.Event(), []
    with FakeHost() as host:
        worker(host)
        with DaskWorkers(scheduler) as one, DaskWorkers(scheduler) as two:
            (name,) = until(one.present)
            until(two.present)
            host.at_job = lambda number: goes_on.wait(240)
            given = ("me", PROMPT, None, "own", None)
            runs = threading.Thread(
                target=lambda: answers.append(one.call(name, jobs.run, given, "picture-1", None))
            )
            runs.start()
            until(lambda: "own" in host.waiting)
            waits = threading.Thread(target=lambda: answers.append(two.call(
                name, jobs.nodes, (), "", None)))  # fmt: skip
            waits.start()
            for _ in range(3):
                assert two.aside(name, jobs.nodes, ()).keys() == OBJECT_INFO.keys()
            assert not answers
            goes_on.set()
            runs.join(240)
            waits.join(240)
            assert len(answers) == 2


def test_a_call_beside_a_worker_that_ended_says_so(worker, scheduler, until):
    with FakeHost() as host, DaskWorkers(scheduler) as workers:
        process = worker(host)
        (name,) = until(workers.present)
        process.kill()
        process.wait()
        until(lambda: not workers.present())
        with pytest.raises(ServerGone, match="Dask worker"):
            workers.aside(name, jobs.nodes, ())
