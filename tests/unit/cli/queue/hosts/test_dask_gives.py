"""What real Dask workers are given: LoRAs that their hosts lack, and the command's own code, since
they have Dask alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading

from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.hosts import dask_workers
from craft_lora_pack.cli.queue.hosts.dask_workers import DaskWorkers
from craft_lora_pack.client import jobs
from craft_lora_pack.client.loras import sending
from fake_comfyui import LORAS
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
