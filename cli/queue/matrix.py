"""From `--set` and `--matrix` to jobs: every combination of the values, each as a prompt."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ...client.address import NUMBERS, Inputs, NodeInput
from ...client.from_page.dynamic_prompts import with_draws
from ...client.widgets import kind_of
from ...craft_core.errors import CraftError

MOST_JOBS = 10_000
MOST_NODES = 10_000_000  # of all jobs together
_LARGEST_FILE = 1 << 24  # bytes of an @FILE
_NUMBER = r"[+-]?\d{1,30}(?:\.\d{1,30})?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:\.\.({_NUMBER}))?")


@dataclass(frozen=True)
class Axis:
    """One name of the matrix: what it sets, and the texts of its values in order."""

    name: str
    targets: tuple[NodeInput, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run. `key` identifies its prompt: equal settings have equal keys.

    undrawn: the prompt with its dynamic texts as the page's widgets have them, where it has such.
    """

    parameters: Mapping[str, str]
    prompt: dict[str, Any]
    undrawn: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        return prompt_key(self.prompt)

    @property
    def name(self) -> str:
        """As the user reads it: `content=dog seed=3`."""
        return " ".join(f"{name}={value}" for name, value in self.parameters.items())


def prompt_key(prompt: Mapping[str, Any]) -> str:
    """What tells prompts apart; the titles of their nodes do not."""
    bare = {
        node: {"class_type": one["class_type"], "inputs": one["inputs"]}
        for node, one in prompt.items()
    }
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()[:24]


def jobs_of(
    inputs: Inputs,
    settings: Sequence[str],
    matrix: Sequence[str],
    aliases: Sequence[str],
    dynamic: Collection[tuple[str, str]] = (),
) -> list[Job]:
    """Every combination, the last axis fastest; one job where there is no matrix.

    dynamic: node and input of the texts in which each job draws; what it draws follows from its
    own settings, so that a job which is made again is the same.
    """
    named = _aliases(inputs, aliases)
    fixed: dict[NodeInput, str] = {}
    for assignment in settings:
        target, text = inputs.read(assignment)
        fixed = _with(fixed, (target,), text)
    axes = _distinct([_axis(inputs, named, one) for one in matrix])
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_JOBS:
        raise CraftError(
            f"The matrix has {count} jobs", f"At most {MOST_JOBS} are queued", "Shorten an axis"
        )
    if count * len(inputs.prompt) > MOST_NODES:
        raise CraftError(
            f"The matrix has {count} jobs of {len(inputs.prompt)} nodes each",
            f"Together they may have {MOST_NODES} nodes",
            "Shorten an axis, or make the workflow smaller",
        )
    rows = itertools.product(*(axis.values for axis in axes))
    return [_drawn_job(_job(inputs, fixed, axes, row), dynamic) for row in rows]


def _drawn_job(job: Job, dynamic: Collection[tuple[str, str]]) -> Job:
    if not dynamic:
        return job
    prompt = with_draws(job.prompt, dynamic, job.key)
    return job if prompt == job.prompt else Job(job.parameters, prompt, undrawn=job.prompt)


def _job(inputs: Inputs, fixed: dict[NodeInput, str], axes: list[Axis], row: Sequence[str]) -> Job:
    values = fixed
    for axis, text in zip(axes, row, strict=True):
        values = _with(values, axis.targets, text)
    parameters = {axis.name: text for axis, text in zip(axes, row, strict=True)}
    return Job(parameters, inputs.with_values(values))


def _with(
    values: dict[NodeInput, str], targets: tuple[NodeInput, ...], text: str
) -> dict[NodeInput, str]:
    twice = [target for target in targets if target in values]
    if twice:
        raise CraftError(
            f"{twice[0].node}.{twice[0].input} is set twice",
            "An input has one value in each job",
            "Leave out one of the two",
        )
    return values | dict.fromkeys(targets, text)


def _aliases(inputs: Inputs, given: Sequence[str]) -> dict[str, tuple[NodeInput, ...]]:
    """`NAME=NODE.INPUT`, the targets of a repeated name together."""
    named: dict[str, tuple[NodeInput, ...]] = {}
    for one in given:
        name, address = _halves("--alias", one, "NAME=NODE.INPUT", "look=5.style_lora")
        named[name] = (*named.get(name, ()), inputs.find(address))
    return named


def _halves(flag: str, given: str, form: str, example: str) -> tuple[str, str]:
    name, equals, text = given.partition("=")
    if not (name and equals):
        raise CraftError(
            f"{flag} {given!r} is not of the form {form}",
            "NAME is an input, a node's input as NODE.INPUT, or given by --alias",
            f"Write for example {flag} {example}",
        )
    return name, text


def _axis(inputs: Inputs, named: dict[str, tuple[NodeInput, ...]], given: str) -> Axis:
    name, text = _halves("--matrix", given, "NAME=VALUES", "seed=1..10 KSampler.cfg=4,6,8")
    targets = named[name] if name in named else (inputs.find(name),)
    spec = inputs.spec(targets[0])
    values = _values(given, text, spec is not None and kind_of(spec) in NUMBERS)
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise CraftError(
            f"--matrix {given!r} has {min(twice)} twice",
            "Each value makes a row of jobs",
            "Leave out one of the two",
        )
    return Axis(name, targets, tuple(values))


def _distinct(axes: list[Axis]) -> list[Axis]:
    """Axes written NODE.INPUT are called INPUT wherever no other one is."""
    short = [axis.targets[0].input if "." in axis.name else axis.name for axis in axes]
    return [
        axis if short.count(name) > 1 else Axis(name, axis.targets, axis.values)
        for axis, name in zip(axes, short, strict=True)
    ]


def _values(given: str, text: str, numeric: bool) -> list[str]:
    """`a,b,"with, comma"`, ranges where numbers are wanted, or `@FILE` with one value a line."""
    if text.startswith("@"):
        items = _lines(Path(text[1:]))
    else:
        items = list(itertools.islice(_listed(given, text, numeric), MOST_JOBS + 1))
    if len(items) > MOST_JOBS:
        raise CraftError(
            f"--matrix {given.partition('=')[0]} has more than {MOST_JOBS} values",
            f"At most {MOST_JOBS} jobs are queued",
            "Give fewer values",
        )
    if not items or (len(items) > 1 and not all(items)):
        raise CraftError(
            f"--matrix {given!r} has an empty value" if items else f"--matrix {given!r} is empty",
            "Values are separated by commas",
            "Give at least one value, and none between two commas left out",
        )
    return items


def _listed(given: str, text: str, numeric: bool) -> Iterator[str]:
    try:
        row = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error as error:  # a value of more than 131,072 characters
        raise CraftError(
            f"--matrix {given.partition('=')[0]} cannot be read ({error})",
            "Values are separated by commas",
            "Give long texts as @FILE, one a line",
        ) from error
    for item in row:
        yield from _range(item.strip(), numeric) or [item.strip()]


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise OSError(f"it has more than {_LARGEST_FILE} bytes")
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:  # ValueError for what is no UTF-8, and a path with a NUL
        raise CraftError(
            f"{path} cannot be read ({error})",
            "@FILE is a text file with one value a line",
            "Correct the path or the file",
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _range(text: str, numeric: bool) -> list[str]:
    """The values of `1..10`, `10..1` or `0.2..1.0..0.2`, both ends included; empty for others."""
    found = _RANGE.fullmatch(text) if numeric else None
    if found is None:
        return []
    first, last = Decimal(found[1]), Decimal(found[2])
    if found[3] is None and any("." in end for end in (found[1], found[2])):
        raise CraftError(
            f"The range {text} has no step",
            "Without one a range counts whole numbers",
            f"Write the step behind it: {text}..0.1",
        )
    step = abs(Decimal(found[3] or 1))
    if step == 0 or abs(last - first) / step >= MOST_JOBS:
        raise CraftError(
            f"The range {text} has too many values",
            f"At most {MOST_JOBS} jobs are queued",
            "Give a larger step",
        )
    sign = 1 if last >= first else -1
    count = int(abs(last - first) / step) + 1
    return [str(first + sign * step * index) for index in range(count)]
