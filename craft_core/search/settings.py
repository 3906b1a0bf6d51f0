"""What a search chooses from: every method under every guidance, strength and schedule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

from ..errors import CraftError
from ..fusion.lines import MOST_LINES, Line, meaning, parse_lines
from ..registry import Registry
from ..schedule import SHAPES
from ..schedule.schedule import Schedule
from .schedule_text import entries, read_schedule, schedule_data

MOST_STRENGTHS, STRONGEST = 16, 10.0
MOST_SETTINGS = 10_000
_CONSTANT = "constant"
_RULE = re.compile(r", guidance = ([^,;]+)")
_BARE = "direct"  # a method without settings, to read a guidance rule beside


@dataclass(frozen=True)
class Setting:
    """line: the method and its guidance rule. schedule: as read_schedule reads it, in one line."""

    line: Line
    content_strength: float
    style_strength: float
    schedule: str

    @property
    def label(self) -> str:
        """Different for different settings, and in one line."""
        method = ", ".join(self.line.label.split("\n"))
        return (
            f"{method}; content {self.content_strength:g}, style {self.style_strength:g}; "
            f"{self.schedule}"
        )

    def as_data(self) -> dict[str, Any]:
        """For programs, as JSON takes it."""
        return {
            "method": {"method": self.line.method.key, **self.line.knobs},
            "layer_sets": self.line.layer_sets,
            "content_strength": self.content_strength,
            "style_strength": self.style_strength,
            "guidance": {"guidance": self.line.guidance, **self.line.weights},
            "schedule": schedule_data(self.course) if ":" in self.schedule else self.schedule,
        }

    @property
    def course(self) -> Schedule | None:
        """The schedule itself; None for a constant one."""
        return None if self.schedule == _CONSTANT else read_schedule(self.schedule)[1]


def rule_in(label: str) -> str:
    """The key of the guidance rule in a setting's label, which always names one; "" where a text is
    no such label."""
    named = _RULE.search(label)
    return named[1] if named else ""


def settings_of(
    methods: str,
    guidances: str,
    strengths: str,
    schedules: str,
    presets: tuple[str, ...],
    rules: Registry,
) -> tuple[Setting, ...]:
    """All of them, each once, the first entry of every list together first.

    methods: lines as in parse_lines; one that names its guidance keeps that one. guidances: a rule
    a line, "role: weight = 1.5". strengths: numbers with commas between them, for content and style
    alike. schedules: shapes with commas, and lines such as "cosine: style_floor = 0.5". presets,
    rules: as in parse_lines. CraftError for what cannot be read, and where there are fewer than two
    settings or more than MOST_SETTINGS.
    """
    under = _guidances(guidances, presets, rules)
    lines: dict[tuple[Any, ...], Line] = {}
    for line in parse_lines(methods, presets, rules):
        for each in [line] if line.guidance else [_under(line, rule) for rule in under]:
            lines.setdefault(meaning(each, rules), each)
    numbers = _numbers(strengths)
    shapes = _schedules(schedules)
    size = len(lines) * len(numbers) ** 2 * len(shapes)
    if size > MOST_SETTINGS:
        raise CraftError(
            f"There are {size} settings to choose from",
            f"A search has at most {MOST_SETTINGS}",
            "Write fewer methods, guidances, strengths or schedules",
        )
    if size < 2:
        raise CraftError(
            "There is one setting to choose from",
            "Every method is tried under every guidance, at every strength, with every schedule",
            "Write more of them",
        )
    return tuple(Setting(*one) for one in product(lines.values(), numbers, numbers, shapes))


def _schedules(text: str) -> tuple[str, ...]:
    """Each schedule in one line, with its settings behind a colon."""
    written = (entry for line in text.splitlines() for entry in _on_a_line(line))
    read = [read_schedule(entry) for entry in islice(written, MOST_SETTINGS + 1)]
    if len(read) > MOST_SETTINGS:
        raise CraftError(
            f"There are more than {MOST_SETTINGS} schedules to choose from",
            f"A search has at most {MOST_SETTINGS}",
            "Write fewer methods, guidances, strengths or schedules",
        )
    # By what they mean: "cosine: clock = steps" is "cosine".
    meant = {str(schedule_data(schedule)) for _, schedule in read}
    if not read or len(meant) < len(read):
        raise _unreadable(text, "schedules", f"one or more of {', '.join(SHAPES.keys())}")
    lines = (label.partition("\n") for label, _ in read)
    return tuple(
        shape + (f": {', '.join(settings.splitlines())}" if settings else "")
        for shape, _, settings in lines
    )


def _on_a_line(line: str) -> Sequence[str]:
    written = line.split("#", 1)[0]
    if ":" in written and "," in written.partition(":")[0]:
        raise CraftError(
            f"schedules has {written[:200]!r} on one line",
            "A schedule with settings stands on a line of its own",
            "Write it on the next line",
        )
    return entries(written, settings=True)


def _guidances(text: str, presets: tuple[str, ...], rules: Registry) -> tuple[Line, ...]:
    """Each rule beside a bare method."""
    written = (line.split("#", 1)[0].strip() for line in text.splitlines())
    beside = []
    for one in islice(filter(None, written), MOST_LINES + 1):  # one more than is read
        key, _, weights = one.partition(":")
        rule = rules[key.strip()].key
        beside.append(f"{_BARE}: guidance = {rule}" + (f", {weights}" if weights.strip() else ""))
    if not beside:
        raise CraftError(
            "No guidance is listed", f"Known are {', '.join(rules.keys())}", "Write one a line"
        )
    return parse_lines("\n".join(beside), presets, rules)


def _under(line: Line, rule: Line) -> Line:
    """The method of one line under the guidance of another."""
    said = rule.label.removeprefix(f"{_BARE}\n")
    label = f"{line.label}\n{said}"
    return replace(line, label=label, guidance=rule.guidance, weights=rule.weights)


def _numbers(text: str) -> list[float]:
    """With as many digits as a label has."""
    possible = f"one to {MOST_STRENGTHS} numbers from -{STRONGEST:g} to {STRONGEST:g}"
    parts = _entries(text, "strengths", possible)
    found: list[float] = []
    for part in parts:
        try:
            number = float(f"{float(part):g}")
        except ValueError:
            raise _unreadable(text, "strengths", possible) from None
        fits = -STRONGEST <= number <= STRONGEST and len(parts) <= MOST_STRENGTHS
        if not fits or number in found:
            raise _unreadable(text, "strengths", possible)
        found.append(number)
    return found


def _entries(text: str, name: str, possible: str) -> tuple[str, ...]:
    """What stands between commas or on lines, each once."""
    parts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    if not parts or len(set(parts)) < len(parts):
        raise _unreadable(text, name, possible)
    return tuple(parts)


def _unreadable(text: str, name: str, possible: str) -> CraftError:
    return CraftError(
        f"{name} is {text[:200]!r}",
        f"It is {possible}, with commas between them, each once",
        "Write such a list",
    )
