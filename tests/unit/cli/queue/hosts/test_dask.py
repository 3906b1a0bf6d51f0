"""The jobs beside real Dask workers, each a process: none is lost and none is there twice, whatever
ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.hosts import dask_workers
from craft_lora_pack.cli.queue.hosts.dask_workers import DaskWorkers
from craft_lora_pack.cli.queue.journal import NAME
from fake_host import FakeHost

ROOT = Path(__file__).resolve().parents[5]
IMPATIENT = "import craft_lora_pack.client.client as one; one.PATIENCE = 0.3"


def test_200_jobs_whatever_ends(worker, scheduler, queue, until, tmp_path, capsys):
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


def journal(folder):
    return (folder / "out" / NAME).read_text("utf-8").splitlines()
