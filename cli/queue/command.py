"""The flags of `queue`, the run, and what is printed when it ends."""

from __future__ import annotations

import sys
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from ...client.address import Inputs
from ...client.client import Client, server_url
from ...client.errors import RemoteError, ServerGone, in_words
from ...client.loras.announced import VARIABLE
from ...client.near.jobs import nodes
from ...client.to_page.showing import showing
from ...client.widgets import Json
from ...client.workflow import dynamic_texts, read_both
from ...craft_core.errors import CraftError, plain
from ..command import PROGRAM, Command, epilog
from ..stand_in import declarations
from .batch import Batch, BatchCounts
from .hosts.batch import HostsBatch
from .hosts.dask_workers import DaskWorkers
from .hosts.given import GivenServers
from .hosts.host import Fleet, awaited
from .hosts.lending import LentLoras
from .journal import Journal
from .lock import held
from .matrix import Job, jobs_of

SERVER = "http://127.0.0.1:8188"


def _add_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "workflow", metavar="FILE", type=Path,
        help="A workflow as the page saves it, or exported as API.",
    )  # fmt: skip
    parser.add_argument(
        "--set", metavar="NODE.INPUT=VALUE", action="append", default=[],
        help="Set an input in every job. NODE is an id, a title or a type, and is not needed where "
        "one input has the name; may be repeated.",
    )  # fmt: skip
    parser.add_argument(
        "--preset", metavar="FILE_OR_NAME", default=None,
        help="A preset's method, layer sets, strengths, schedule and guidance in every job, before "
        "--set: keep_subject, strong_style, balanced, distilled, or a file.",
    )  # fmt: skip
    parser.add_argument(
        "--matrix", metavar="NAME=VALUES", action="extend", nargs="+", default=[],
        help='Make jobs of all combinations: a,b,"c, d"; 1..10; 0.2..1.0..0.2; @FILE with a value '
        "a line. NAME is an input as in --set, or an --alias.",
    )  # fmt: skip
    parser.add_argument(
        "--alias", metavar="NAME=NODE.INPUT", action="append", default=[],
        help="A name for --matrix; repeated, it sets several inputs to the same value.",
    )  # fmt: skip
    parser.add_argument(
        "--server", metavar="URL", action="append", default=[],
        help=f"The ComfyUI that runs. Default: {SERVER}. Repeated, the jobs are shared out among "
        "several.",
    )  # fmt: skip
    parser.add_argument(
        "--dask", metavar="ADDRESS", default="",
        help="Share the jobs out among the ComfyUIs beside the workers of a Dask scheduler, as "
        "tcp://scheduler:8786.",
    )  # fmt: skip
    parser.add_argument(
        "--send-loras", metavar="FOLDER", type=Path, action="append", default=[],
        help="Send LoRAs that a server lacks: files of this folder under the workflow's names. The "
        f"server must have been started with {VARIABLE}=2GB or another limit.",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, default=None,
        help="Where the files and the journal go. Default: queue_NAME in this folder, after FILE.",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="Print the jobs and queue none; asks the server."
    )
    parser.add_argument(
        "--interrupt-server", action="store_true",
        help="Ctrl-C also ends the job that runs; without it the server finishes that job.",
    )  # fmt: skip


def _run(options: Namespace) -> None:
    urls = list(dict.fromkeys(server_url(given) for given in options.server)) or [SERVER]
    if options.dask and options.server:
        raise CraftError(
            "--dask and --server are both given",
            "With --dask each worker names the server beside it",
            "Leave out one of the two",
        )
    if options.dask:
        try:
            with DaskWorkers(options.dask) as workers:
                _run_on(options, workers)
        except ServerGone as error:
            raise _no_server(error) from error
    else:
        several = len(urls) > 1 or options.send_loras  # what one lacks is looked at among several
        _run_on(options, GivenServers(urls) if several else urls[0])


def _run_on(options: Namespace, place: str | Fleet) -> None:
    """place: the URL of one server, or several servers."""
    lent = LentLoras(options.send_loras)
    try:
        with in_words():
            base, page, object_info = _read(options.workflow, place)
            prompt = _preset(base, object_info, options.preset) if options.preset else base
            inputs = Inputs(prompt, object_info)
            dynamic = dynamic_texts(page, object_info) if page else ()
            jobs = jobs_of(inputs, options.set, options.matrix, options.alias, dynamic)
    except ServerGone:
        raise
    except RemoteError as error:
        raise CraftError(
            f"No jobs can be made of what the server says of its nodes: {error}",
            "It is what ComfyUI answers to /object_info",
            "Update that ComfyUI and its packs, or give another with --server",
        ) from error
    if options.dry_run:
        _print_jobs(jobs)
        return

    def shown(job: Job) -> Json | None:
        """The page's workflow as the job's pictures carry it."""
        return showing(page, base, job.undrawn or job.prompt, object_info) if page else None

    folder = options.out or Path(f"queue_{options.workflow.stem}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: no path can be so
        raise _no_folder(folder, error) from error
    try:
        with held(folder):
            outcome = _outcome(_batch(options, place, folder, shown, lent), jobs)
    except OSError as error:
        raise _no_folder(folder, error) from error
    _end(outcome, len(jobs))


def _read(workflow: Path, place: str | Fleet) -> tuple[Json, Json | None, Json]:
    """The prompt, the page's workflow where the file is one, and the nodes of the first server that
    has all nodes of it."""
    if isinstance(place, str):
        try:
            object_info = Client(place).object_info()
        except RemoteError as error:
            raise _no_server(error) from error
        return *read_both(workflow, object_info), object_info
    end = 0.0
    while True:
        told: list[RemoteError | CraftError] = []
        for door in place.present().values():
            try:
                object_info = door.aside(nodes)  # whatever runs there
                return *read_both(workflow, object_info), object_info
            except (RemoteError, CraftError) as error:
                told.append(error)
        known = [error for error in told if not isinstance(error, ServerGone)]
        if known and isinstance(known[0], CraftError):
            raise known[0]
        if not end:
            end = time.monotonic() + place.patience
            if place.patience and not known:
                print(awaited(place, str(told[0]) if told else ""), file=sys.stderr)
        if known or time.monotonic() >= end:
            error = (*known, *told, ServerGone(f"there was not {place.wanted}."))[0]
            raise _no_server(error) from error
        time.sleep(1.0)


def _preset(prompt: Json, object_info: Json, given: str) -> Json:
    """The prompt with a preset; what of it was left out is printed."""
    with declarations():  # the methods' own files, which most commands go without
        from .presets import preset_named, with_preset
    changed, left = with_preset(prompt, object_info, preset_named(given))
    for line in left:
        print(plain(f"Left out of the preset: {line}"), file=sys.stderr)
    return changed


def _print_jobs(jobs: list[Job]) -> None:
    for number, job in enumerate(jobs, 1):
        print(plain(f"{number}/{len(jobs)} {job.name}".rstrip()))


def _batch(
    options: Namespace,
    place: str | Fleet,
    folder: Path,
    shown: Callable[[Job], Json | None],
    lent: LentLoras,
) -> Batch | HostsBatch:
    journal = Journal(folder, uuid.uuid4().hex)
    name, cancel = options.workflow.stem, options.interrupt_server
    if not isinstance(place, str):
        return HostsBatch(place, journal, folder, name, shown, cancel, lent)
    return Batch(Client(place, client_id=journal.client), journal, folder, name, shown, cancel)


def _outcome(batch: Batch | HostsBatch, jobs: list[Job]) -> BatchCounts:
    try:
        return batch.run(jobs)
    except ServerGone as error:
        raise _no_server(error) from error
    except KeyboardInterrupt as error:
        one = isinstance(batch, Batch)
        left = ("ended" if batch.cancel_on_interrupt
                else f"finished by the server{'' if one else 's'}")  # fmt: skip
        what = "the job that ran is" if one else "the jobs that ran are"
        raise KeyboardInterrupt(
            f"Stopped; {what} {left}. Run the same command again to go on."
        ) from error


def _end(outcome: BatchCounts, total: int) -> None:
    print(f"{outcome.done} done, {outcome.skipped} done before, {outcome.failed} failed")
    if outcome.failed:
        raise CraftError(
            f"{outcome.failed} of {total} jobs failed, each for the reason above",
            "The files of the others are saved",
            "Correct the cause and run the same command again: it runs the failed ones alone",
        )


def _no_server(error: Exception) -> CraftError:
    return CraftError(
        f"No answer: {error}",
        "The jobs run on a ComfyUI that is up",
        "Start it, give its address with --server, and run the same command again; what is done "
        "stays done",
    )


def _no_folder(folder: Path, error: Exception) -> CraftError:
    return CraftError(
        f"{folder} cannot be written to ({getattr(error, 'strerror', None) or error})",
        "The files of the jobs and the journal go there",
        "Make room or give another folder with --out",
    )


COMMANDS = (
    Command(
        ("queue",),
        "Run a workflow with many settings on a running ComfyUI and fetch what it makes.",
        "FILE [--set NODE.INPUT=VALUE] [--matrix NAME=VALUES ...] [flags]",
        _add_flags,
        _run,
        epilog(
            (
                f"{PROGRAM} queue workflow.json --set KSampler.steps=20",
                '--matrix "content=dog,cat" "style=ink,oil" seed=1..10',
            ),
        ),
        computes=False,
    ),
)
