"""Run jobs one after another: queue each or find it on the server, follow it, download its files.

A job that fails does not end the others.
"""

from __future__ import annotations

import hashlib
import math
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...client.client import WAITING, Client, PromptResult
from ...client.errors import Forgotten, RemoteError, ServerGone, in_words
from ...client.facts import as_listed
from ...client.near.jobs import MOST_FILES, RESTARTS
from ...client.progress import RunProgress
from ...client.widgets import Json
from ...craft_core.errors import plain
from ..progress import progress_bar
from .hashes import Hashes
from .journal import Journal
from .matrix import Job
from .resources import resource_files
from .saving import most_name, save_output, stems

_LONGEST = 200  # letters of what the bar says of a job
_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


@dataclass
class BatchCounts:
    """How many jobs made their files now, had made them before, and failed."""

    done: int = 0
    skipped: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Batch:
    """Runs jobs of a workflow on a server into a folder. One job at a time is on the server.

    workflow: its name. shown: the page's workflow that a job's pictures are to restore, if any.
    """

    client: Client
    journal: Journal
    folder: Path
    workflow: str
    shown: Callable[[Job], Json | None]
    cancel_on_interrupt: bool = False
    _saved: dict[tuple[str, ...], str] = field(default_factory=dict)  # what was fetched -> its name
    _info: Json = field(default_factory=dict)  # what the server said of its nodes

    def run(self, jobs: list[Job]) -> BatchCounts:
        """All jobs that are not done yet. ServerGone and KeyboardInterrupt end it half-way."""
        outcome = BatchCounts()
        hashes = Hashes(self.client)
        with Display(len(jobs)) as display:
            for number, job in enumerate(jobs):
                display.begin(number, job)
                if self.journal.is_done(job):
                    outcome.skipped += 1
                    continue
                try:
                    with in_words():
                        loras, models = resource_files(job.prompt)
                        hashes.ask(loras)
                        names = self._files(job, display.watch(job), hashes.known)
                except ServerGone:
                    raise
                except RemoteError as error:
                    outcome.failed += 1
                    self.journal.failed(job, str(error))
                    display.tell(f"{_called(number, job)} failed: {error}", sys.stderr)
                else:
                    outcome.done += 1
                    hashes.ask(models)  # large ones: the job has read them, so they are at hand
                    for name in names:
                        display.tell(str(self.folder / name), sys.stdout)
                    if not names:
                        display.tell(f"{_called(number, job)} gave no file", sys.stderr)
        return outcome

    def _files(
        self, job: Job, show: Callable[[str, dict[str, Any]], None], hashes: Mapping[str, str]
    ) -> list[str]:
        items = self._result(job, show).all_files()
        if len(items) > MOST_FILES:
            raise RemoteError(f"the job made {len(items)} files; at most {MOST_FILES} are fetched.")
        names: list[str] = []
        new: dict[tuple[str, ...], str] = {}
        try:
            named = stems(self.workflow, job, items, most_name(self.folder))
            for stem, item in zip(named, items, strict=True):
                content = self.client.fetch(item)
                # A node that has nothing new to do gives its file of an earlier job once more.
                file = (*sorted(item.values()), hashlib.sha256(content).hexdigest())
                known = self._saved.get(file) or new.get(file)
                if known is None or not (self.folder / known).is_file():
                    known = save_output(
                        content, self.folder, stem, self.workflow, job, item["filename"],
                        hashes=hashes,
                    )  # fmt: skip
                    new[file] = known
                names.append(known)
            self.journal.done(job, names)
        except BaseException:  # also Ctrl-C: the job counts as not done, and is fetched again
            for name in new.values():
                (self.folder / name).unlink(missing_ok=True)
            raise
        self._saved.update(new)
        return names

    def _result(self, job: Job, show: Callable[[str, dict[str, Any]], None]) -> PromptResult:
        """What the job gave; queued again where a server was restarted and forgot it."""
        for _ in range(RESTARTS):
            try:
                return self._one_result(job, show)
            except Forgotten:
                continue
        return self._one_result(job, show)

    def _one_result(self, job: Job, show: Callable[[str, dict[str, Any]], None]) -> PromptResult:
        """Queue the job, or wait for it where an earlier command left it on the server."""
        known = self.journal.prompt_id(job)
        waits = known is not None and self.client.will_finish(known)
        prompt_id = known if known is not None and waits else str(uuid.uuid4())
        if not waits:  # written down before it is queued, so that it is found again
            self.journal.queued(job, prompt_id)
        try:
            with self.client.listening() as events:
                if not waits:
                    prompt = as_listed(self.client, job.prompt, self._info)
                    given = self.client.queue(prompt, self.shown(job), prompt_id)
                    if given != prompt_id:  # a server that chooses ids itself
                        prompt_id = given
                        self.journal.queued(job, prompt_id)
                return self.client.follow(events, prompt_id, show, math.inf)
        except KeyboardInterrupt:
            if self.cancel_on_interrupt:
                with suppress(RemoteError):
                    self.client.cancel(prompt_id)
            raise


def _called(number: int, job: Job) -> str:
    return f"job {number + 1} ({job.name})" if job.parameters else f"job {number + 1}"


def waiting_words(ahead: int) -> str:
    """What is said of a job while others of its server come first."""
    return f"waiting behind {'1 job' if ahead == 1 else f'{ahead} jobs'}"


class Display:
    """One bar on stderr over all jobs, moving with the nodes and steps inside them."""

    def __init__(self, jobs: int) -> None:
        pause = 0.1 if sys.stderr.isatty() else 10.0
        self._jobs, self._number = jobs, 0
        self._bar = progress_bar(total=jobs, bar_format=_FORMAT, mininterval=pause, file=sys.stderr)

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._move(self._jobs)
        self._bar.close()

    def begin(self, number: int, job: Job) -> None:
        """Show which job comes next; `number` counts from 0."""
        self._number = number
        self._bar.set_description_str(
            plain(f"{number + 1}/{self._jobs} {job.name}", _LONGEST), refresh=False
        )
        self._bar.set_postfix_str("", refresh=False)
        self._move(number)

    def show(self, ended: int, running: str, now: bool = False) -> None:
        """Show how many jobs have ended, and what runs, where several run at once. now: whether it
        cannot wait for the bar's next turn."""
        self._bar.set_description_str(f"{ended}/{self._jobs}", refresh=False)
        self._bar.set_postfix_str(plain(running, _LONGEST), refresh=now)
        self._move(ended)

    def note(self, running: str) -> None:
        """Say in the bar what runs beside the jobs."""
        self._bar.set_postfix_str(plain(running, _LONGEST), refresh=False)
        self._bar.update(0)

    def watch(self, job: Job) -> Callable[[str, dict[str, Any]], None]:
        """A function that takes the server's events about the job and shows them."""
        progress = RunProgress(job.prompt)

        def show(kind: str, data: dict[str, Any]) -> None:
            if kind == WAITING:
                self._bar.set_postfix_str(waiting_words(data["ahead"]), refresh=True)
                return
            progress.event(kind, data)
            steps = f" {progress.step:g}/{progress.steps:g}" if progress.steps else ""
            self._bar.set_postfix_str(progress.title + steps, refresh=False)
            self._move(self._number + progress.share)

        return show

    def _move(self, to: float) -> None:
        self._bar.update(to - self._bar.n)

    def tell(self, line: str, stream: Any) -> None:
        """Print a line of its own above the bar."""
        self._bar.write(plain(line), file=stream)
