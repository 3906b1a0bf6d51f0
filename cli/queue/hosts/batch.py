"""Run jobs on several servers, one at a time on each; a server that goes away loses none.

One thread decides: the calls of the hosts run in threads of their own, and answer into a queue.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ....client.errors import RemoteError, ServerGone, in_words
from ....client.facts import model_uses, with_listed
from ....client.near import jobs as beside
from ....client.widgets import Json
from ....craft_core.errors import CraftError, plain
from ..batch import BatchCounts, Display, waiting_words
from ..journal import Journal
from ..matrix import Job
from .host import Does, Fleet, FleetHost, Waits, awaited, differs
from .lending import MOST_HOSTS, MOST_TIMES, LentLoras, NowThere, OnTheWay
from .pictures import shown
from .results import Results
from .waiting import Waiting, files_of_job

TICK = 0.2  # seconds without an answer after which hosts are looked for
RETURNS = 10.0  # seconds after which a host that is gone is asked again
COMPARES = 120.0  # seconds that a host waits for the others to be compared with
MOST_LOSSES = 3  # hosts that may go away while they run the same job
GIGABYTE = 1e9


class HostsBatch:
    """Runs jobs of a workflow on a fleet of servers into a folder.

    shown: the page's workflow that a job's pictures are to restore, if any. Before its first job a
    host says what it has and runs the reference job: the first of the matrix that does not fail.
    lent: LoRAs that are sent to hosts that lack them.
    """

    def __init__(
        self,
        fleet: Fleet,
        journal: Journal,
        folder: Path,
        workflow: str,
        shown: Callable[[Job], Json | None],
        cancel_on_interrupt: bool = False,
        lent: LentLoras | None = None,
    ) -> None:
        self._fleet, self._journal, self._folder = fleet, journal, folder
        self._workflow, self._shown = workflow, shown
        self.cancel_on_interrupt = cancel_on_interrupt
        self._lent = lent or LentLoras(())
        self._hosts: dict[str, FleetHost] = {}
        self._answers: SimpleQueue[tuple[FleetHost, Any]] = SimpleQueue()
        self._sizes: dict[str, float] = {}  # bytes of model files
        self._losses: dict[str, list[float]] = {}  # when hosts went away with a job
        self._alone_since: float | None = None

    def run(self, jobs: list[Job]) -> BatchCounts:
        """All jobs that are not done yet. ServerGone where no host is left, and KeyboardInterrupt,
        end it half-way; CraftError where every host would give other pictures."""
        numbered = {job.key: (number, job) for number, job in reversed(list(enumerate(jobs, 1)))}
        different = [job for _, job in sorted(numbered.values(), key=lambda one: one[0])]
        todo = [job for job in different if not self._journal.is_done(job)]
        self._counts = BatchCounts(skipped=len(jobs) - len(todo))
        if not todo:
            return self._counts
        self._results = Results(self._journal, self._folder, self._workflow, jobs)
        self._waiting = Waiting(todo, self._journal)
        self._numbers = {key: number for key, (number, _) in numbered.items()}
        self._types = sorted({one["class_type"] for job in todo for one in job.prompt.values()})
        self._uses = sorted(set().union(*(model_uses(job.prompt) for job in todo)))
        self._references = iter(different)
        self._reference = next(self._references)
        self._standard: FleetHost | None = None  # a host with which all others are compared
        with Display(len(jobs)) as self._display:
            try:
                while self._waiting or self._busy(Does.WORKS):
                    self._meet()
                    self._lend()
                    self._compare()
                    self._hand_out()
                    self._require_hosts()
                    self._listen()
            except KeyboardInterrupt:
                if self.cancel_on_interrupt:
                    self._cancel()
                raise
        return self._counts

    # Hosts come and go

    def _busy(self, *does: Does) -> list[FleetHost]:
        return [host for host in self._hosts.values() if host.does in does]

    def _meet(self) -> None:
        """Ask those that are new, or may be back, what they are."""
        present = self._fleet.present()
        for name, door in present.items():
            host = self._hosts.get(name)
            if host is None:
                self._hosts[name] = host = FleetHost(name, door, self._answers)
                self._ask(host)
            elif host.does is Does.GONE and time.monotonic() - host.since > RETURNS:
                self._ask(host)
        for host in self._busy(Does.GONE, Does.OUT):
            if host.name not in present:
                del self._hosts[host.name]

    def _ask(self, host: FleetHost) -> None:
        host.begin(Does.TELLS)
        host.work(lambda: host.door.aside(beside.facts_here, self._types, self._uses))

    def _listen(self) -> None:
        """Take the answers that there are, and wait a moment for one where there is none."""
        with suppress(Empty):
            self._take(*self._answers.get(timeout=TICK))
            while True:
                self._take(*self._answers.get_nowait())

    def _take(self, host: FleetHost, answer: Any) -> None:
        if isinstance(answer, Waits):
            self._wait(host, answer)
        elif isinstance(answer, ServerGone) and host.does is not Does.TAKES:
            self._lose(host, answer)
        elif host.does is Does.TELLS:
            self._told(host, answer)
        elif host.does is Does.TAKES:
            self._took(host, answer)
        elif host.does is Does.TRIES:
            self._tried(host, answer)
        else:
            self._worked(host, answer)

    def _lose(self, host: FleetHost, error: ServerGone) -> None:
        (job, host.job), did = (host.job, None), host.does
        if not (did is Does.TELLS and host.failure == str(error)):  # said once
            self._tell(f"{host.name} is gone: {error}")
        host.failure = str(error)
        host.begin(Does.GONE)
        if job is None:
            return
        losses = self._losses.setdefault(job.key, [])
        losses.append(host.since)
        lost = len(losses) >= MOST_LOSSES
        why = f"{len(losses)} servers went away while they ran it."
        if did is Does.WORKS and lost:
            self._failed(job, why)
        elif did is Does.WORKS:
            self._waiting.give_back(job)
        elif lost and self._is_hopeless(job, losses[MOST_LOSSES - 1]):
            self._next_reference(why)

    def _is_hopeless(self, job: Job, lost: float) -> bool:
        """Whether a trial with which too many hosts had gone away by that time chooses none: no
        host made it, and none that began it before is still at it."""
        if self._standard is not None or job is not self._reference:
            return False
        made = any(not host.failure for host in self._busy(Does.WAITS))
        return not made and all(host.since > lost for host in self._busy(Does.TRIES))

    def _require_hosts(self) -> None:
        if any(host.does not in (Does.GONE, Does.OUT) for host in self._hosts.values()):
            self._alone_since = None
            return
        if self._hosts and not self._busy(Does.GONE):
            raise CraftError(
                "No server may run the jobs, each for the reason above",
                "All must have what the first has, and give the same pictures",
                "Correct the cause, or name those servers alone that agree",
            )
        now, patience = time.monotonic(), self._fleet.patience
        if self._alone_since is None:
            self._alone_since = now
            if patience:
                self._tell(awaited(self._fleet))
        if now - self._alone_since >= patience:
            reasons = "; ".join(f"{host.name}: {host.failure}" for host in self._hosts.values())
            raise ServerGone(f"no server is left ({reasons or 'there was none'}).")

    # The check before a host's first job

    def _told(self, host: FleetHost, answer: Any) -> None:
        if isinstance(answer, RemoteError):
            self._leave_out(host, str(answer))
            return
        host.facts, host.info = answer["facts"], answer["info"]
        host.place, host.failure = answer["place"], ""
        self._sizes |= answer["sizes"]
        free = f"{answer['free'] / GIGABYTE:.1f} GB free" if answer["free"] else "memory unknown"
        where = "" if host.place.startswith(host.name) else f" ({host.place})"
        if not host.sent:  # else it was told before
            self._tell(f"{host.name}{where}: ComfyUI {host.facts.get('ComfyUI')}, {free}")
        if self._lent.of(host.facts):
            host.begin(Does.LACKS)
        else:
            self._try(host)

    def _lend(self) -> None:
        """Send LoRAs to hosts that lack them, once all others have said what they have under those
        names, or one has waited long."""
        for host in self._busy(Does.LACKS):
            patient = time.monotonic() - host.since < COMPARES
            telling = self._standard is None and self._busy(Does.TELLS) and patient
            if telling or len(self._busy(Does.TAKES)) >= MOST_HOSTS:
                continue
            names = self._lent.of(host.facts)
            often = [name for name in names if host.sent[name] >= MOST_TIMES]
            if often:
                self._leave_out(host, f"{often[0]} was sent {MOST_TIMES} times, and it lacks it")
                continue
            host.sent.update(names)
            host.begin(Does.TAKES)
            host.work(partial(self._lent.send, host.door, names, self._known(), self._watch(host)))

    def _known(self) -> dict[str, dict[str, str]]:
        """What hosts have, by their names: the one that all are held to, else all that may run."""
        if self._standard is not None:
            return {self._standard.name: self._standard.facts}
        return {one.name: one.facts for one in self._hosts.values() if one.does is not Does.OUT}

    def _watch(self, host: FleetHost) -> Callable[[OnTheWay | NowThere], None]:
        return lambda told: self._answers.put((host, told))

    def _took(self, host: FleetHost, answer: Any) -> None:
        """What a host says while LoRAs are sent to it, and, None, when it has all."""
        if isinstance(answer, OnTheWay):
            self._display.note(f"{host.name} gets {answer}")
            return
        self._show()
        if isinstance(answer, NowThere):
            self._tell(f"{host.name}: {answer}")
        elif isinstance(answer, ServerGone):  # or the connection alone: it may be the only server
            self._tell(f"{host.name} did not get all: {answer}")
            self._ask(host)
        elif isinstance(answer, RemoteError):
            self._leave_out(host, str(answer))
        else:
            self._ask(host)

    def _try(self, host: FleetHost) -> None:
        host.begin(Does.TRIES)
        host.failure, host.pictures = "", ()
        self._start(host, self._reference)

    def _tried(self, host: FleetHost, answer: Any) -> None:
        reference, host.job = host.job, None
        if reference is not self._reference:  # another was chosen meanwhile
            self._try(host)
            return
        host.begin(Does.WAITS)
        if isinstance(answer, RemoteError):
            host.failure = str(answer)
        else:
            host.pictures = tuple(sorted(shown(content) for _, _, content in answer))
            if self._standard is None and not self._journal.is_done(reference):
                alike = (one for one in self._busy(Does.WAITS) if one.pictures == host.pictures)
                host.made = next((one.made for one in alike if one.made), answer)  # held once

    def _compare(self) -> None:
        """Choose whom the others are held to, once all have run the reference job or one that made
        it has waited long; then let in those that agree, and leave out the others. While a host is
        still at it, the job does not count as failing everywhere."""
        waiting = self._busy(Does.WAITS)
        if not waiting:
            return
        late = self._busy(Does.TELLS, Does.LACKS, Does.TAKES, Does.TRIES)
        if self._standard is None:
            sound = [host for host in waiting if not host.failure]
            patient = not sound or time.monotonic() - min(one.since for one in sound) < COMPARES
            if late and patient:
                return
            if not sound:
                self._next_reference(waiting[0].failure)
                return
            standard = self._best(sound)
            if standard is None and late:
                return
            self._choose(standard)
        assert self._standard is not None
        for host in waiting:
            failed = f"the first job fails: {host.failure}" if host.failure else ""
            reason = failed or differs(host, self._standard)
            host.made = []
            if reason:
                self._leave_out(host, reason)
            else:
                host.begin(Does.RESTS)

    def _best(self, sound: list[FleetHost]) -> FleetHost | None:
        """Whoever gives what is in the folder already, None for nobody; where nothing is there,
        who lacks least, else has most like it."""
        known: tuple[str, ...] | None = None
        if self._journal.is_done(self._reference):
            names = self._journal.files(self._reference)
            known = tuple(sorted(shown((self._folder / name).read_bytes()) for name in names))

        def rank(host: FleetHost) -> tuple[bool, int, int]:
            like = sum(not differs(host, other) for other in sound)
            return host.pictures == known, -host.lacks, like

        best = max(sound, key=rank)
        return best if known is None or best.pictures == known else None

    def _choose(self, standard: FleetHost | None) -> None:
        """Hold the others to a host; CraftError for none."""
        if standard is None:
            raise CraftError(
                f"No server gives the pictures that are in {self._folder}",
                f"An earlier command made those of the first job ({self._reference.name})",
                "Give another folder with --out, or the servers that made them",
            )
        self._standard = FleetHost(
            standard.name, standard.door, self._answers,
            facts=standard.facts, pictures=standard.pictures,
        )  # fmt: skip
        if not self._journal.is_done(self._reference):
            self._waiting.remove(self._reference)
            self._end(self._reference, standard.made)

    def _next_reference(self, why: str) -> None:
        """The reference job fails everywhere: it counts as failed, and the next one is tried."""
        if not self._journal.is_done(self._reference):
            self._waiting.remove(self._reference)
            self._failed(self._reference, why)
        reference = next(self._references, None)
        if reference is None:
            return
        self._reference = reference
        for host in self._busy(Does.WAITS):
            self._try(host)

    def _leave_out(self, host: FleetHost, reason: str) -> None:
        self._tell(f"{host.name} is left out: {reason.removesuffix('.')}.")
        host.failure = reason
        host.begin(Does.OUT)

    # Jobs

    def _hand_out(self) -> None:
        for host in self._busy(Does.RESTS):
            others = [other.loaded for other in self._busy(Does.WORKS)]
            job = self._waiting.take(host.place, host.loaded, others, self._sizes)
            if job is None:
                return
            host.begin(Does.WORKS)
            self._start(host, job)
            self._show()

    def _start(self, host: FleetHost, job: Job) -> None:
        """Queue a job on a host, or wait for it where an earlier command left it there."""
        known, server = self._journal.prompt_id(job), self._journal.server(job)
        if server not in (None, host.place):
            known = None
        prompt_id = str(uuid.uuid4())
        if host.does is Does.WORKS and (known is None or server is None):
            self._journal.queued(job, prompt_id, host.place)
        host.job, host.loaded = job, files_of_job(job)
        host.prompt_ids = (prompt_id,) if known is None else (known, prompt_id)
        try:
            with in_words():
                prompt, page = with_listed(job.prompt, host.info), self._shown(job)
        except RemoteError as error:
            self._answers.put((host, error))
            return
        host.order(
            beside.run, self._journal.client, prompt, page, prompt_id, known,
            key=f"picture-{job.key}", tells=self._says(host, job),
        )  # fmt: skip

    def _says(self, host: FleetHost, job: Job) -> Callable[[int], None]:
        """What the host calls while the job waits behind others."""
        told = 0

        def say(ahead: int) -> None:
            nonlocal told
            if ahead != told:
                told = ahead
                self._answers.put((host, Waits(job, ahead)))

        return say

    def _wait(self, host: FleetHost, told: Waits) -> None:
        if host.job is told.job:
            host.ahead = told.ahead
            self._show(now=True)

    def _worked(self, host: FleetHost, answer: Any) -> None:
        job, host.job = host.job, None
        assert job is not None
        host.begin(Does.RESTS)
        self._end(job, answer)

    def _end(self, job: Job, answer: Any) -> None:
        """Save what a job gave, or say why it failed."""
        try:
            if isinstance(answer, RemoteError):
                raise answer
            with in_words():
                self._save(job, answer)
        except RemoteError as error:
            self._failed(job, str(error))

    def _save(self, job: Job, made: Sequence[beside.Made]) -> None:
        hashes = self._standard.facts if self._standard else {}  # which those of all others equal
        names = self._results.save(job, made, hashes)
        self._counts.done += 1
        for name in names:
            self._display.tell(str(self._folder / name), sys.stdout)
        if not names:
            self._tell(f"{self._called(job)} gave no file")
        self._show()

    def _failed(self, job: Job, why: str) -> None:
        self._counts.failed += 1
        self._journal.failed(job, why)
        self._tell(f"{self._called(job)} failed: {why}")

    def _cancel(self) -> None:
        for host in self._busy(Does.WORKS, Does.TRIES):
            for prompt_id in host.prompt_ids:
                with suppress(RemoteError):
                    host.door.aside(beside.cancel, prompt_id)

    # Words

    def _called(self, job: Job) -> str:
        name = f" ({job.name})" if job.parameters else ""
        return f"job {self._numbers[job.key]}{name}"

    def _tell(self, line: str) -> None:
        self._display.tell(line, sys.stderr)

    def _show(self, now: bool = False) -> None:
        counts = self._counts
        hosts = len(self._busy(Does.WORKS, Does.RESTS))
        ended = counts.done + counts.skipped + counts.failed
        waiting = [f"{host.name}: {waiting_words(host.ahead)}"
                   for host in self._hosts.values() if host.ahead]  # fmt: skip
        running = [f"on {hosts} servers"] if hosts or not waiting else []
        self._display.show(ended, plain("; ".join([*running, *waiting])), now)
