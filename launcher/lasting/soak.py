"""Many different prompts in one live server, some interrupted: is anything left behind?

Every prompt that comes again must give the same files, bit by bit.  One prompt, the reference, is
run at every look; then memory, objects and the loaded weights are read inside the server.
"""

import hashlib
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from craft_lora_pack.client.client import Client
from craft_lora_pack.client.errors import RemoteError

from ..errors import LaunchError
from ..paths import ROOT
from ..run.hosts import pinned_host
from ..run.server import Server
from ..run.workspace import link, prepare_workspace
from ..terminal import say
from .prompts import Prompts, SoakJob

PROBE, ROUTE = ROOT / "benchmarks" / "soak_probe", "/craft_soak_probe"
INTERRUPTED = 0.1  # share of the prompts
SOON = 2.0  # seconds within which a prompt is interrupted
LOOKS = 20  # of a soak
LIMIT = 600.0  # seconds for one prompt
SLACK = {"memory": 64 << 20, "objects": 20_000, "tensors": 200}  # what is no growth


@dataclass
class Look:
    """What the server held after so many prompts."""

    prompts: int
    held: dict[str, Any]


@dataclass
class Soak:
    """The record of a soak; `faults` is empty where nothing was found."""

    made: dict[tuple[str, ...], str] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    again: int = 0
    stopped: int = 0

    def compare(self, key: tuple[str, ...], files: str) -> None:
        """Note a prompt's files, and a fault where the same prompt gave others before."""
        known = self.made.setdefault(key, files)
        self.again += known == files
        if known != files:
            self.faults.append(f"{' '.join(key)}: other pictures than the first time")

    def judge(self) -> None:
        """Note as faults what has grown, and weights that are not what they were."""
        for name, slack in SLACK.items():
            before, after = thirds([look.held[name] for look in self.looks])
            if after > before + slack:
                self.faults.append(f"{name} grew from {before:,.0f} to {after:,.0f}")
        first = self.looks[0].held["weights"]
        for look in self.looks:
            if look.held["weights"] != first:
                self.faults.append(f"after {look.prompts} prompts the loaded weights are others")


def thirds(values: Sequence[float]) -> tuple[float, float]:
    """The medians of the second third and of the last: the first third is still filling caches."""
    third = max(1, len(values) // 3)
    return statistics.median(values[third : 2 * third] or values), statistics.median(
        values[-third:]
    )


def run_soak(prompts: int, seed: int) -> int:
    """Run so many prompts in a server of its own; 0 when no fault was found."""
    host = pinned_host(tools=True)
    with TemporaryDirectory(prefix="craft-soak-", ignore_cleanup_errors=True) as folder:
        base = prepare_workspace(host, Path(folder))
        link(PROBE, base / "custom_nodes" / "craft_soak_probe")
        # A picture that the host had kept would carry the prompt that made it.
        with Server(host, base, cpu=True, more=["--disable-metadata"]) as server:
            if server.failed_packs():
                raise LaunchError(f"ComfyUI could not load {'; '.join(server.failed_packs())}")
            soak = soak_server(server.client, Prompts(server.client.object_info(), base, seed),
                               prompts, seed)  # fmt: skip
    soak.judge()
    say(f"{prompts} prompts of {len(soak.made)} kinds, {soak.again} came again with equal files, "
        f"{soak.stopped} interrupted")  # fmt: skip
    for fault in soak.faults:
        say(f"FAULT: {fault}")
    say("no fault found" if not soak.faults else f"{len(soak.faults)} faults")
    return 1 if soak.faults else 0


def soak_server(client: Client, drawn: Prompts, count: int, seed: int) -> Soak:
    """Queue `count` jobs one after another, and look in between."""
    soak, rng, jobs = Soak(), random.Random(seed + 1), drawn.drawn()
    every = max(1, count // LOOKS)
    started = time.monotonic()
    say("prompts   minutes   memory (MB)    objects   tensors")
    for number in range(count + 1):
        if number % every == 0:
            _look(client, soak, drawn.reference(), number)
            held = soak.looks[-1].held
            say(
                f"{number:7}   {(time.monotonic() - started) / 60:7.1f}   "
                f"{held['memory'] / 1e6:11.0f}   {held['objects']:8}   {held['tensors']:7}"
            )
        job = next(jobs)
        if rng.random() < INTERRUPTED:
            soak.stopped += _run_and_stop(client, job, rng.uniform(0, SOON))
        else:
            _run(client, soak, job)
    return soak


def _run(client: Client, soak: Soak, job: SoakJob) -> None:
    try:
        result = client.run(job.prompt, limit=LIMIT)
        # In any order: nodes that do not depend on each other may run in another one each time.
        files = sorted(hashlib.sha256(client.fetch(item)).hexdigest() for item in result.files())
        soak.compare(job.key, " ".join(files))
    except RemoteError as error:
        soak.faults.append(f"{' '.join(job.key)}: {error}")


def _run_and_stop(client: Client, job: SoakJob, after: float) -> bool:
    """Interrupt a prompt after a while; whether it had not ended before."""
    timer = threading.Timer(after, client.interrupt)
    timer.start()
    try:
        client.run(job.prompt, limit=LIMIT)
    except RemoteError:
        return True
    finally:
        timer.cancel()
        timer.join()
    return False


def _look(client: Client, soak: Soak, reference: SoakJob, number: int) -> None:
    _run(client, soak, reference)
    client.post_json("/history", {"clear": True})  # the host keeps every prompt: that is its own
    soak.looks.append(Look(number, client.ask(ROUTE)))
