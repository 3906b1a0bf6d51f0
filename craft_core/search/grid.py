"""A grid of two axes: each names one thing that may differ between pictures, and its values.

    content_strength: 0.6, 0.8, 1       numbers, seeds and layer sets with commas or a line each

    method: craft, direct               methods, guidance rules and schedule shapes, with commas
    k_lora: pattern = s*                where they have no settings, and one a line with them

What stands after a # is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import CraftError
from ..fusion.lines import Line, parse_line
from ..guidance import GUIDANCE
from ..registry import Method
from ..schedule.schedule import Schedule
from .schedule_text import entries, read_number, read_schedule, schedule_data

MOST_CELLS = 256
STRONGEST, LARGEST_CFG = 10.0, 100.0  # of the nodes' inputs
LARGEST_SEED = (1 << 53) - 1  # that a page can set
_BARE = "direct"  # a method without settings, to read a guidance rule beside


@dataclass(frozen=True)
class GridSetting:
    """What one cell is made with. layer_sets: a preset's key or lines of patterns. knobs, weights:
    of the method and of the guidance rule, only those that are given. schedule: None for none."""

    method: Method
    knobs: Mapping[str, Any]
    layer_sets: str
    content_strength: float
    style_strength: float
    schedule: Schedule | None
    guidance: str
    weights: Mapping[str, Any]
    cfg: float
    seed: int

    @property
    def line(self) -> Line:
        """Method and guidance, as a comparison lists them."""
        key = self.method.key
        return Line(key, self.method, dict(self.knobs), "", self.guidance, dict(self.weights))

    def as_preset(self) -> dict[str, Any]:
        """All of it, as craft_core.presets reads it."""
        rule = GUIDANCE[self.guidance]
        return {
            "method": {"method": self.method.key, **self.method.knobs(dict(self.knobs))},
            "layer_sets": self.layer_sets,
            "content_strength": self.content_strength,
            "style_strength": self.style_strength,
            "schedule": schedule_data(self.schedule),
            "guidance": {"guidance": rule.key, **rule.knobs(dict(self.weights))},
            "cfg": self.cfg,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Value:
    """A row or a column. label: what stands beside it. sets: fields of GridSetting."""

    label: str
    sets: Mapping[str, Any]


@dataclass(frozen=True)
class GridCell:
    """row, column: their places on the axes."""

    row: int
    column: int
    setting: GridSetting


@dataclass(frozen=True)
class Grid:
    rows: tuple[Value, ...]
    columns: tuple[Value, ...]

    def cells(self, base: GridSetting) -> tuple[GridCell, ...]:
        """Row by row. base: what neither axis sets."""
        return tuple(
            GridCell(row, column, replace(base, **{**down.sets, **across.sets}))
            for row, down in enumerate(self.rows)
            for column, across in enumerate(self.columns)
        )


def grid_of(x_axis: str, y_axis: str, presets: tuple[str, ...]) -> Grid:
    """x_axis: the columns. y_axis: the rows; one row without a label where it is empty.

    presets: keys that layer_sets can be. CraftError, naming axis and line, for what cannot be read,
    and where the axes set the same thing or have more than MOST_CELLS cells.
    """
    columns = axis_of(x_axis, "x_axis", presets)
    rows = axis_of(y_axis, "y_axis", presets) if y_axis.strip() else (Value("", {}),)
    count = len(columns) * len(rows)
    if count > MOST_CELLS:
        raise CraftError(
            f"The grid has {count} cells: {len(columns)} columns and {len(rows)} rows",
            f"A grid has at most {MOST_CELLS}",
            "Write fewer values on an axis",
        )
    for row in rows:
        for column in columns:
            both = sorted(row.sets.keys() & column.sets.keys())
            if both:
                raise CraftError(
                    f"{_in_a_line(row.label)} of y_axis and {_in_a_line(column.label)} of x_axis "
                    f"both set {', '.join(both)}",
                    "The axes differ in what they set",
                    "Change one of the two",
                )
    return Grid(rows, columns)


def axis_of(text: str, name: str, presets: tuple[str, ...]) -> tuple[Value, ...]:
    """The values of one axis, in order. name: of the axis, for messages."""
    lines = _lines(text)
    kind = ""
    values: dict[str, Value] = {}
    for number, written in lines:
        try:
            if not kind:
                kind, _, written = (part.strip() for part in written.partition(":"))
                _require_kind(kind)
            for entry in entries(written, settings=kind in _WITH_SETTINGS):
                value = _READ[kind](entry, presets)
                if value.label in values:
                    raise CraftError(
                        f"{entry!r} is there already",
                        "Each row or column is another value",
                        "Write each once",
                    )
                values[value.label] = value
                if len(values) > MOST_CELLS:
                    raise CraftError(
                        f"There are more than {MOST_CELLS} values",
                        f"A grid has at most {MOST_CELLS} cells",
                        "Write fewer",
                    )
        except CraftError as error:
            place = f"{name}, line {number}"
            raise CraftError(f"{place}: {error.given}", error.possible, error.action) from None
    if not values:
        raise CraftError(
            f"{name} has no value",
            f"It is one of {', '.join(KINDS)}, a colon and values",
            "Write for example: content_strength: 0.6, 0.8, 1",
        )
    return tuple(values.values())


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, what is written) of the lines that are not empty."""
    for number, raw in enumerate(text.splitlines(), 1):
        written = raw.split("#", 1)[0].strip()
        if written:
            yield number, written


def _require_kind(kind: str) -> None:
    if kind not in _READ:
        raise CraftError(
            f"{kind[:80]!r} is nothing that an axis can set",
            f"It can be one of {', '.join(KINDS)}",
            "Begin with one of these and a colon",
        )


def _method(text: str, presets: tuple[str, ...]) -> Value:
    line = parse_line(text, presets, GUIDANCE)
    sets: dict[str, Any] = {"method": line.method, "knobs": line.knobs}
    if line.layer_sets:
        sets["layer_sets"] = line.layer_sets
    if line.guidance:
        sets |= {"guidance": line.guidance, "weights": line.weights}
    return Value(line.label, sets)


def _guidance(text: str, presets: tuple[str, ...]) -> Value:
    key, _, weights = (part.strip() for part in text.partition(":"))
    rule = GUIDANCE[key].key
    line = parse_line(
        f"{_BARE}: guidance = {rule}" + (f", {weights}" if weights else ""), presets, GUIDANCE
    )
    said = line.label.removeprefix(f"{_BARE}\n")
    return Value(said, {"guidance": rule, "weights": line.weights})


def _schedule(text: str, presets: tuple[str, ...]) -> Value:
    label, schedule = read_schedule(text)
    return Value(label, {"schedule": schedule})


def _layer_sets(text: str, presets: tuple[str, ...]) -> Value:
    if text not in presets:
        raise CraftError(
            f"layer_sets = {text[:80]}",
            f"It can be one of {', '.join(presets)}",
            "Choose one of these",
        )
    return Value(f"layer_sets {text}", {"layer_sets": text})


def _seed(text: str, presets: tuple[str, ...]) -> Value:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= LARGEST_SEED):
        raise CraftError(
            f"seed = {text[:80]!r}",
            f"It is a whole number from 0 to {LARGEST_SEED}",
            "Write such a number",
        )
    return Value(f"seed {int(text)}", {"seed": int(text)})


def _numbers(label: str, names: Sequence[str], least: float, most: float) -> Callable[..., Value]:
    """Reads a number with as many digits as its label has. names: the fields that it sets."""

    def read(text: str, presets: tuple[str, ...]) -> Value:
        number = read_number(text, label, least, most)
        return Value(f"{label} {number:g}", dict.fromkeys(names, float(f"{number:g}")))

    return read


def _in_a_line(label: str) -> str:
    return ", ".join(label.split("\n"))


_STRENGTHS = ("content_strength", "style_strength")
_READ: Mapping[str, Callable[[str, tuple[str, ...]], Value]] = {
    "method": _method,
    "content_strength": _numbers("content_strength", _STRENGTHS[:1], -STRONGEST, STRONGEST),
    "style_strength": _numbers("style_strength", _STRENGTHS[1:], -STRONGEST, STRONGEST),
    "strength": _numbers("strength", _STRENGTHS, -STRONGEST, STRONGEST),
    "guidance": _guidance,
    "cfg": _numbers("cfg", ("cfg",), 0.0, LARGEST_CFG),
    "schedule": _schedule,
    "layer_sets": _layer_sets,
    "seed": _seed,
}
_WITH_SETTINGS = ("method", "guidance", "schedule")
KINDS = tuple(_READ)
