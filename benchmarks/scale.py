"""What sharing a matrix out costs: `queue` on one server, on several, and beside Dask's workers.

    python run.py bench scale [--hosts 4] [--jobs 200] [--seconds 0.5] [--dask] [--real]

The servers are small stand-ins whose jobs take `--seconds` and compute nothing, so that what is
left is the command's own work; with `--seconds 0` that is all there is. `--real` starts as many
ComfyUIs on the CPU in their place and runs the demo in 2 steps; on one machine they share its
processors, so only whether their files are those of one server says something there. `--dask` adds
a scheduler and a worker beside each server, each a process. A row is one command in a process of
its own, its start included. `efficiency` is the time on one server, divided by the number of
servers and the time on them. `command` and `scheduler` are processor milliseconds a job, which
other programs on the machine change little; `journal` is bytes a job. The files of each row are
compared with those of one server.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT / "tests" / "unit" / "parts")]

from launcher.run.hosts import Host  # noqa: E402
from launcher.run.server import Server  # noqa: E402
from launcher.run.workspace import prepare_workspace  # noqa: E402

# isort: split
from craft_lora_pack.cli.queue.hosts.pictures import shown  # noqa: E402
from fake_comfyui import PROMPT  # noqa: E402
from fake_host import FakeHost  # noqa: E402

QUICK = ["--set", "steps=2", "--set", "batch_size=1"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a stand-in's job")
    parser.add_argument("--dask", action="store_true", help="also beside Dask workers")
    parser.add_argument("--real", action="store_true", help="ComfyUIs in place of stand-ins")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        begun = servers_of(given, Path(folder), stack)
        workflow = Path(folder, "demo.json")
        workflow.write_text(json.dumps(PROMPT))
        words = [f"seed=1001..{1000 + given.jobs}"]
        command = [str(workflow), "--matrix", *words]
        if given.real:
            command = [str(ROOT / "workflows/demo_small_world.json"), *QUICK, "--matrix", *words]
        rows: dict[str, Callable[[list[str]], list[str]]] = {
            "1 server": lambda urls: ["--server", urls[0]],
            f"{given.hosts} servers": lambda urls: [w for url in urls for w in ("--server", url)],
        }
        print(f"{'':12} {'s':>8} {'jobs/s':>8} {'efficiency':>11} {'command':>8} {'scheduler':>10} "
              f"{'journal':>8}  files")  # fmt: skip
        one, files = 0.0, {}
        for name, place in rows.items():
            urls = begun()
            spent, busy, out = ran(command, place(urls), Path(folder, name))
            one, files = one or spent, files or shown_in(out)
            report(name, given, spent, one, busy, 0.0, out, files)
        if given.dask:
            with cluster(begun(), Path(folder)) as (address, scheduler):
                spent, busy, out = ran(command, ["--dask", address], Path(folder, "dask"))
                told = sum(psutil.Process(scheduler).cpu_times()[:2])
            report(f"{given.hosts} workers", given, spent, one, busy, told, out, files)


def servers_of(
    given: argparse.Namespace, folder: Path, stack: ExitStack
) -> Callable[[], list[str]]:
    """A function that gives the addresses of servers which have drawn nothing yet."""
    number = 0

    def start() -> str:
        nonlocal number
        number += 1
        if given.real:
            host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), own=False)
            base = prepare_workspace(host, folder / f"base{number}")
            return stack.enter_context(Server(host, base, cpu=True)).url
        fake = stack.enter_context(FakeHost())
        fake.at_job = lambda _: time.sleep(given.seconds)
        return fake.url

    kept = [start() for _ in range(given.hosts)] if given.real else []
    return lambda: kept or [start() for _ in range(given.hosts)]


def ran(command: Sequence[str], place: Sequence[str], out: Path) -> tuple[float, float, Path]:
    """Seconds, processor seconds, and the folder."""
    begun, before = time.monotonic(), os.times()
    subprocess.run(
        [sys.executable, "-m", "craft_core", "queue", *command, *place, "--out", str(out)],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    after = os.times()
    busy = sum(after[2:4]) - sum(before[2:4])  # of processes that have ended
    return time.monotonic() - begun, busy, out


def shown_in(out: Path) -> dict[str, str]:
    return {file.name: shown(file.read_bytes()) for file in out.glob("*.png")}


def report(
    name: str, given: argparse.Namespace, spent: float, one: float, busy: float, scheduler: float,
    out: Path, files: dict[str, str],
) -> None:  # fmt: skip
    hosts = 1 if name == "1 server" else given.hosts
    journal = (out / "queue.jsonl").stat().st_size / given.jobs
    same = "the same" if shown_in(out) == files else "OTHERS"
    milliseconds = (f"{1000 * one / given.jobs:.1f}" for one in (busy, scheduler))
    own, central = milliseconds
    print(
        f"{name:12} {spent:8.1f} {given.jobs / spent:8.1f} {one / hosts / spent:11.0%} {own:>8} "
        f"{central:>10} {journal:8.0f}  {len(files)}, {same}",
        flush=True,
    )


@contextmanager
def cluster(urls: Sequence[str], folder: Path) -> Iterator[tuple[str, int]]:
    """A scheduler, and a worker beside each server; the scheduler's address and process."""
    log = folder / "scheduler.log"
    processes = []

    def start(program: str, *arguments: str, **more: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--no-dashboard"]
        with log.open("a") as file:
            processes.append(subprocess.Popen(
                [*command, *arguments], stdout=file, stderr=file, cwd=folder,
                env=os.environ | more,
            ))  # fmt: skip

    def until(found: Callable[[], re.Match[str] | bool | None]) -> None:
        while not found():
            time.sleep(0.1)

    def at() -> re.Match[str] | None:
        return re.search(r"Scheduler at: +(tcp://\S+)", log.read_text())

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0")
        until(at)
        address = at()[1]
        for url in urls:
            arguments = ["--no-nanny", "--nthreads", "1", "--resources", "comfy=1"]
            start("worker", address, *arguments, COMFYUI_URL=url)
        until(lambda: log.read_text().count("Registered to:") == len(urls))
        yield address, processes[0].pid
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
