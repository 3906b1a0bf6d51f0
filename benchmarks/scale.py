"""What sharing a matrix out costs: `queue` on one server, on several, and beside Dask's workers.

    python run.py bench scale [--hosts 4] [--jobs 200] [--seconds 0.5] [--dask] [--real [--ends]]

The servers are small stand-ins whose jobs take `--seconds` and compute nothing, so that what is
left is the command's own work; with `--seconds 0` that is all there is. `--real` starts as many
ComfyUIs on the CPU in their place and runs the demo in 2 steps; on one machine they share its
processors, so only whether their files are those of one server says something there. `--dask` adds
a scheduler and a worker beside each server, each a process. A row is one command in a process of
its own, its start included. `efficiency` is the time on one server, divided by the number of
servers and the time on them. `command` and `scheduler` are processor milliseconds a job, which
other programs on the machine change little; `journal` is bytes a job. The files of each row are
compared with those of one server. `--ends`, with `--real`, runs the matrix on one server, and
then on all while a ComfyUI, with `--dask` a worker too, and the command itself are killed, and with
`--dask` a ComfyUI joins: no job may be lost, be there twice, or give other files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
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
from parts.ending import cluster, ended, run_with_ends  # noqa: E402

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
    parser.add_argument("--ends", action="store_true", help="kill some of them; with --real")
    given = parser.parse_args()
    if given.ends and not (given.real and given.hosts >= 3):
        parser.error("--ends needs --real and three hosts, of which one loses its worker")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        real = [real_server(Path(folder), stack) for _ in range(given.hosts * given.real)]
        begun = partial(addresses, given, real, stack)
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
        for name, place in list(rows.items())[: 1 if given.ends else None]:
            urls = begun()
            spent, busy, out = ran(command, place(urls), Path(folder, name))
            one, files = one or spent, files or shown_in(out)
            report(name, given, spent, one, busy, 0.0, out, files)
        if given.dask and not given.ends:
            with cluster(begun(), Path(folder)) as running:
                spent, busy, out = ran(command, ["--dask", running.address], Path(folder, "dask"))
                told = sum(psutil.Process(running.processes[0].pid).cpu_times()[:2])
            report(f"{given.hosts} workers", given, spent, one, busy, told, out, files)
        if given.ends:
            with_ends(given, command, real, Path(folder), stack, files)


def real_server(folder: Path, stack: ExitStack) -> Server:
    """A ComfyUI on the CPU with a folder of its own."""
    host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), own=False)
    base = prepare_workspace(host, Path(tempfile.mkdtemp(prefix="base", dir=folder)))
    return stack.enter_context(Server(host, base, cpu=True))


def addresses(given: argparse.Namespace, real: Sequence[Server], stack: ExitStack) -> list[str]:
    """Of the ComfyUIs, or of stand-ins that have drawn nothing yet."""
    if real:
        return [server.url for server in real]
    fakes = [stack.enter_context(FakeHost()) for _ in range(given.hosts)]
    for fake in fakes:
        fake.at_job = lambda _: time.sleep(given.seconds)
    return [fake.url for fake in fakes]


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


def with_ends(
    given: argparse.Namespace, command: Sequence[str], real: Sequence[Server], folder: Path,
    stack: ExitStack, files: dict[str, str],
) -> None:  # fmt: skip
    """Kill a ComfyUI, a worker and the command, let a ComfyUI join, and see what is there then."""
    living, out = list(real[1:]), folder / "with_ends"
    events: dict[str, Callable[[], None]] = {
        "a ComfyUI is killed": real[0].kill, "the command is killed": lambda: None,
    }  # fmt: skip
    if given.dask:
        with cluster([server.url for server in real], folder) as running:
            living.append(real_server(folder, stack))
            worker = running.processes[2]  # the second; the scheduler is the first of them
            events |= {
                "a worker is killed": worker.kill,
                "a ComfyUI joins": lambda: running.add(living[-1].url),
            }
            run_with_ends([*command, "--dask", running.address], given.jobs, out, events)
    else:
        places = [word for server in real for word in ("--server", server.url)]
        run_with_ends([*command, *places], given.jobs, out, events)
    done, there = ended(out), shown_in(out)
    lost = [name for name in files if name not in there]
    others = [name for name in there if there[name] != files.get(name)]
    twice = sum(count > 1 for count in done.values())
    print(
        f"{len(done)} of {given.jobs} jobs done, {twice} of them twice; {len(there)} files, "
        f"{len(lost)} lost, {len(others)} that one server has not; prompts that the living servers "
        f"ran, checks included: {', '.join(str(prompts_of(server)) for server in living)}"
    )
    if lost or others or twice or len(done) != given.jobs:
        raise SystemExit("a job was lost, is there twice, or gave other files")


def prompts_of(server: Server) -> int:
    """How many prompts a server has finished."""
    return len(server.client.get_json("/history?max_items=100000"))


if __name__ == "__main__":
    main()
