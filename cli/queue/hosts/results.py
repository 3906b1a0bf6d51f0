"""The files of jobs that several servers make, under the names that one server would give them.

With one server the jobs end in the matrix's order, and a node that has nothing new to do gives its
file of an earlier job once more. Here both are read off the matrix: a file belongs to the first
job whose nodes up to the one that saved it are the same, and its number follows from that job's
place among those of the same name.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ....client.jobs import Made
from ....client.widgets import Json
from ..journal import Journal
from ..matrix import Job
from ..saving import file_stem, output_name, save_output, stems, with_job
from .pictures import shown

_File = tuple[str, str, int, str]  # a node, what it is made of, the place among its files, a hash


def made_of(prompt: Json, node: str) -> str:
    """A hash of a node of a prompt with everything that leads to it."""
    seen: set[str] = set()
    look = [node]
    while look:
        one = look.pop()
        if one in prompt and one not in seen:
            seen.add(one)
            links = prompt[one]["inputs"].values()
            look += [link[0] for link in links if _is_link(link)]
    parts = {one: [prompt[one]["class_type"], prompt[one]["inputs"]] for one in seen}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


class Results:
    """Writes what jobs gave into the folder, and that they are done into the journal."""

    def __init__(self, journal: Journal, folder: Path, workflow: str, jobs: Sequence[Job]) -> None:
        self._journal, self._folder, self._workflow, self._jobs = journal, folder, workflow, jobs
        self._rank: dict[str, int] = {}  # of a job among those whose files have the same stem
        named: Counter[str] = Counter()
        for job in jobs:
            stem = file_stem(workflow, job.parameters)
            self._rank.setdefault(job.key, named[stem])
            named[stem] += 1
        self._makers: dict[str, dict[str, list[Job]]] = {}  # node -> what it is made of -> jobs
        self._shared: dict[_File, str] = {}  # a file that several jobs may give -> its name

    def save(self, job: Job, made: Sequence[Made]) -> list[str]:
        """The names of the job's files. OSError leaves none of them."""
        names: list[str] = []
        new: list[str] = []
        shared: dict[_File, str] = {}
        try:
            for index in range(len(made)):
                file = self._shared_file(job, made, index)
                name = self._known(job, made, index, file)
                if name is None:
                    name = self._write(job, made, index)
                    new.append(name)
                if file is not None:
                    shared[file] = name
                names.append(name)
            self._journal.done(job, names)
        except BaseException:  # also Ctrl-C: the job counts as not done, and is fetched again
            for name in new:
                (self._folder / name).unlink(missing_ok=True)
            raise
        self._shared |= shared
        return names

    def _shared_file(self, job: Job, made: Sequence[Made], index: int) -> _File | None:
        """What tells a file of several jobs from others; None for a file of one job."""
        node, _, content = made[index]
        if len(self._jobs_that_make(job, node)) == 1:
            return None
        place = sum(one == node for one, *_ in made[:index])
        return node, made_of(job.prompt, node), place, shown(content)

    def _known(self, job: Job, made: Sequence[Made], index: int, file: _File | None) -> str | None:
        """The name under which the file is there: saved for another job, or by a command that
        ended before it could say so."""
        known = self._shared.get(file) if file else None
        if known is not None and (self._folder / known).is_file():
            return known
        stem, number, owner = self._place(job, made, index)
        _, item, content = made[index]
        path = self._folder / output_name(stem, number, item["filename"])
        if not path.is_file():
            return None
        there = path.read_bytes()
        same = there == with_job(content, self._workflow, job)
        return path.name if same or (file and shown(there) == file[-1]) else None

    def _write(self, job: Job, made: Sequence[Made], index: int) -> str:
        stem, number, owner = self._place(job, made, index)
        _, item, content = made[index]
        taken = (self._folder / output_name(stem, number, item["filename"])).exists()
        if taken and owner is not job:  # by another content: the node gives a new one each time
            names = stems(self._workflow, job, [item for _, item, _ in made])
            stem, number, owner = names[index], 1, job
        return save_output(
            content, self._folder, stem, self._workflow, owner, item["filename"], number
        )

    def _place(self, job: Job, made: Sequence[Made], index: int) -> tuple[str, int, Job]:
        """(stem, number, job) of a file's name."""
        owner = self._owner(job, made[index][0])
        names = stems(self._workflow, owner, [item for _, item, _ in made])
        own = [
            one
            for one, (node, *_) in enumerate(made)
            if names[one] == names[index] and self._owner(owner, node) is owner
        ]
        return names[index], self._rank[owner.key] * len(own) + own.index(index) + 1, owner

    def _owner(self, job: Job, node: str) -> Job:
        return self._jobs_that_make(job, node)[0]

    def _jobs_that_make(self, job: Job, node: str) -> list[Job]:
        """The jobs in whose prompts the node, and all that leads to it, are the same."""
        if node not in self._makers:
            makers: dict[str, list[Job]] = {}
            for one in self._jobs:
                makers.setdefault(made_of(one.prompt, node), []).append(one)
            self._makers[node] = makers
        return self._makers[node][made_of(job.prompt, node)]
