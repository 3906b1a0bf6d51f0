"""The flags of `queue`, the run, and what is printed when it ends."""

from __future__ import annotations

import sys
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from ...client.address import Inputs
from ...client.client import Client, server_url
from ...client.errors import RemoteError, ServerGone
from ...client.widgets import Json
from ...client.workflow import read_both, showing
from ...craft_core.errors import CraftError, plain
from ..command import PROGRAM, Command, epilog
from ..stand_in import declarations
from .batch import Batch, BatchCounts
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
        "--server",
        metavar="URL",
        default=SERVER,
        help="The ComfyUI that runs. Default: %(default)s.",
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
    url = server_url(options.server)
    try:
        object_info = Client(url).object_info()
    except RemoteError as error:
        raise _no_server(error) from error
    base, page = read_both(options.workflow, object_info)
    prompt = _preset(base, object_info, options.preset) if options.preset else base
    inputs = Inputs(prompt, object_info)
    jobs = jobs_of(inputs, options.set, options.matrix, options.alias)
    if options.dry_run:
        _print_jobs(jobs)
        return

    def shown(job: Job) -> Json | None:
        """The page's workflow as the job's pictures carry it."""
        return showing(page, base, job.prompt, object_info) if page else None

    folder = options.out or Path(f"queue_{options.workflow.stem}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: no path can be so
        raise _no_folder(folder, error) from error
    try:
        with held(folder):
            outcome = _outcome(_batch(options, url, folder, shown), jobs)
    except OSError as error:
        raise _no_folder(folder, error) from error
    _end(outcome, len(jobs))


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
    options: Namespace, url: str, folder: Path, shown: Callable[[Job], Json | None]
) -> Batch:
    journal = Journal(folder, uuid.uuid4().hex)
    client = Client(url, client_id=journal.client)
    return Batch(client, journal, folder, options.workflow.stem, shown, options.interrupt_server)


def _outcome(batch: Batch, jobs: list[Job]) -> BatchCounts:
    try:
        return batch.run(jobs)
    except ServerGone as error:
        raise _no_server(error) from error
    except KeyboardInterrupt as error:
        left = "ended" if batch.cancel_on_interrupt else "finished by the server"
        raise KeyboardInterrupt(
            f"Stopped; the job that ran is {left}. Run the same command again to go on."
        ) from error


def _end(outcome: BatchCounts, total: int) -> None:
    print(f"{outcome.done} done, {outcome.skipped} done before, {outcome.failed} failed")
    if outcome.failed:
        raise CraftError(
            f"{outcome.failed} of {total} jobs failed, each for the reason above",
            "The files of the others are saved",
            "Correct the cause and run the same command again: it runs the failed ones alone",
        )


def _no_server(error: RemoteError) -> CraftError:
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
                "--matrix content=dog,cat style=ink,oil seed=1..10",
            ),
        ),
        computes=False,
    ),
)
