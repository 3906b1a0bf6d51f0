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
from collections.abc import Mapping, Sequence
from pathlib import Path

from ....client.near.jobs import Made
from ....client.widgets import Json
from ..journal import Journal
from ..matrix import Job
from ..saving import file_stem, is_with_job, most_name, output_name, save_output, stems
from .pictures import shown

_File = tuple[str, str, int, str]  # a node, what it is made of, the place among its files, a hash
_Place = tuple[str, int, Job]  # stem and number of a name, and the job after which it is


def made_of(prompt: Json, node: str) -> str:
    """A hash of a node of a prompt with everything that leads to it."""
    seen: set[str] = set()
    look = [node]
    while look:
        one = look.pop()
        if one in prompt and one not in seen:
            seen.add(one)
            links = prompt[one]["inputs"].values()
            look += [link[0] for link in links if is_link(link)]
    parts = {one: [prompt[one]["class_type"], prompt[one]["inputs"]] for one in seen}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def is_link(value: object) -> bool:
    """Whether a prompt's input has it from another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


class Results:
    """Writes what jobs gave into the folder, and that they are done into the journal."""

    def __init__(self, journal: Journal, folder: Path, workflow: str, jobs: Sequence[Job]) -> None:
        self._journal, self._folder, self._workflow, self._jobs = journal, folder, workflow, jobs
        self._most = most_name(folder)
        self._rank: dict[str, int] = {}  # of a job among those whose files have the same stem
        named: Counter[str] = Counter()
        for job in jobs:
            stem = file_stem(workflow, job.parameters, self._most)
            self._rank.setdefault(job.key, named[stem])
            named[stem] += 1
        self._made_of: dict[tuple[str, str], str] = {}  # (job, node) -> what it is made of
        self._makers: dict[str, dict[str, list[Job]]] = {}  # node -> what it is made of -> jobs
        self._shared: dict[_File, str] = {}  # a file that several jobs may give -> its name

    def save(
        self, job: Job, made: Sequence[Made], hashes: Mapping[str, str] | None = None
    ) -> list[str]:
        """The names of the job's files. OSError leaves none of them. hashes: as in with_job."""
        names: list[str] = []
        new: list[str] = []
        shared: dict[_File, str] = {}
        counted: Counter[str] = Counter()  # files of a node so far
        own = stems(self._workflow, job, [item for _, item, _ in made], self._most)
        try:
            for one, place in zip(made, self._places(job, made), strict=True):
                node, item, content = one
                file = None
                if len(self._jobs_that_make(job, node)) > 1:
                    file = (node, self._content_of(job, node), counted[node], shown(content))
                counted[node] += 1
                name = self._known(job, one, place, file)
                if name is None:
                    taken = (self._folder / output_name(*place[:2], item["filename"])).exists()
                    if taken and place[2] is not job:  # the node gives another content each time
                        place = own[len(names)], 1, job
                    stem, number, owner = place
                    name = save_output(
                        content, self._folder, stem, self._workflow, owner, item["filename"],
                        number, hashes,
                    )  # fmt: skip
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

    def _known(self, job: Job, made: Made, place: _Place, file: _File | None) -> str | None:
        """The name under which the file is there: saved for another job, or by a command that
        ended before it could say so."""
        known = self._shared.get(file) if file else None
        if known is not None and (self._folder / known).is_file():
            return known
        _, item, content = made
        path = self._folder / output_name(*place[:2], item["filename"])
        if not path.is_file():
            return None
        there = path.read_bytes()
        same = is_with_job(there, content, self._workflow, job)
        return path.name if same or (file and shown(there) == file[-1]) else None

    def _places(self, job: Job, made: Sequence[Made]) -> list[_Place]:
        """Where each file goes: numbered among those that its owner makes under the same stem."""
        items = [item for _, item, _ in made]
        owners = [self._owner(job, node) for node, *_ in made]
        places: dict[int, _Place] = {}
        for owner in {one.key: one for one in owners}.values():
            names = stems(self._workflow, owner, items, self._most)
            own: dict[str, list[int]] = {}
            for index, (node, *_) in enumerate(made):
                if self._owner(owner, node) is owner:
                    own.setdefault(names[index], []).append(index)
            for stem, files in own.items():
                first = self._rank[owner.key] * len(files) + 1
                places |= {
                    index: (stem, number, owner)
                    for number, index in enumerate(files, first)
                    if owners[index] is owner
                }
        return [places[index] for index in range(len(made))]

    def _owner(self, job: Job, node: str) -> Job:
        return self._jobs_that_make(job, node)[0]

    def _jobs_that_make(self, job: Job, node: str) -> list[Job]:
        """The jobs in whose prompts the node, and all that leads to it, are the same; the job alone
        for a node that came into being while it ran."""
        if node not in job.prompt:
            return [job]
        if node not in self._makers:
            makers: dict[str, list[Job]] = {}
            for one in self._jobs:
                if node in one.prompt:
                    makers.setdefault(self._content_of(one, node), []).append(one)
            self._makers[node] = makers
        return self._makers[node][self._content_of(job, node)]

    def _content_of(self, job: Job, node: str) -> str:
        if (job.key, node) not in self._made_of:
            self._made_of[job.key, node] = made_of(job.prompt, node)
        return self._made_of[job.key, node]
