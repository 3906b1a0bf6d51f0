"""The jobs that wait, handed out so that a host keeps the models that it has loaded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from ....client.facts import model_uses
from ..journal import Journal
from ..matrix import Job

Files = frozenset[str]


def files_of_job(job: Job) -> Files:
    """The names of the model files that a job loads."""
    return frozenset(file for _, _, file in model_uses(job.prompt))


class Waiting:
    """Jobs by the files that they load, in their order. A job that an earlier command left on a
    server is kept for it, and given to another when nothing else waits."""

    def __init__(self, jobs: Iterable[Job], journal: Journal) -> None:
        self._groups: dict[Files, deque[Job]] = {}
        self._left: dict[str, deque[Job]] = {}
        for job in jobs:
            server = journal.server(job) if journal.prompt_id(job) else None
            if server is not None:
                self._left.setdefault(server, deque()).append(job)
            else:
                self._groups.setdefault(files_of_job(job), deque()).append(job)

    def __len__(self) -> int:
        return sum(map(len, (*self._groups.values(), *self._left.values())))

    def take(
        self, place: str, loaded: Files, others: Iterable[Files], sizes: Mapping[str, float]
    ) -> Job | None:
        """The next job for a host, None where none waits.

        place: the host as the journal names it. loaded: what its last job used. others: the same of
        the other hosts. sizes: bytes of the files, where known. Fewest bytes to load come first,
        then files that no other host has, then the matrix's order.
        """
        if self._left.get(place):
            return self._left[place].popleft()
        groups = [files for files, jobs in self._groups.items() if jobs]
        if not groups:
            return next((jobs.popleft() for jobs in self._left.values() if jobs), None)
        taken = list(others)

        def cost(files: Files) -> tuple[float, int]:
            load = sum(sizes.get(file) or 1.0 for file in files - loaded)
            return load, 0 if files == loaded else taken.count(files)

        return self._groups[min(groups, key=cost)].popleft()

    def give_back(self, job: Job) -> None:
        """A job whose host is gone comes first among its like."""
        self._groups.setdefault(files_of_job(job), deque()).appendleft(job)

    def remove(self, job: Job) -> None:
        """A waiting job that waits no more."""
        for jobs in (*self._groups.values(), *self._left.values()):
            if job in jobs:
                jobs.remove(job)
