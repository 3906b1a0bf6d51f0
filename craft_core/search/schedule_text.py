"""Schedules as lists write them: a shape, and behind a colon what it is set to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import CraftError
from ..fusion.lines import settings_in
from ..schedule import SHAPES
from ..schedule.schedule import Schedule

_OWN = ("content_floor", "style_floor", "clock")


def read_schedule(text: str) -> tuple[str, Schedule]:
    """(label, the schedule) of "sigmoid: steepness = 5, style_floor = 0.5".

    The label has a line for each setting. CraftError for what the shape has not.
    """
    key, _, rest = text.partition(":")
    shape, written = SHAPES[key.strip()], settings_in(rest)
    label = "\n".join([shape.key, *(f"{name} = {value}" for name, value in written.items())])
    known = {one.name: one for one in shape.parameters if one.type is not tuple}
    own: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, value in written.items():
        if name in known:
            settings[name] = known[name].read(value, shape.key)
        elif name in _OWN:
            own[name] = value if name == "clock" else read_number(value, name, 0.0, 1.0)
        else:
            raise CraftError(
                f"{shape.key} has no setting {name[:80]!r} that can be written",
                f"It has {', '.join([*known, *_OWN])}",
                "Use one of these",
            )
    return label, Schedule(shape.key, settings, **own)


def schedule_data(schedule: Schedule | None) -> Any:
    """As a preset has it; None is constant."""
    if schedule is None:
        return "constant"
    knobs = SHAPES[schedule.shape].knobs(dict(schedule.settings))
    own = {name: getattr(schedule, name) for name in _OWN}
    return {"shape": schedule.shape, **knobs, **own}


def entries(written: str, *, settings: bool) -> Sequence[str]:
    """What stands between commas. settings: a line with a colon is one entry with its settings."""
    if settings and ":" in written:
        return [written]
    return [part for piece in written.split(",") if (part := piece.strip())]


def read_number(text: str, name: str, least: float, most: float) -> float:
    """A number within bounds; CraftError for anything else."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise CraftError(
            f"{name} = {text[:80]!r}",
            f"It is a number from {least:g} to {most:g}",
            "Write such a number",
        )
    return number
