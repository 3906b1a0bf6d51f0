"""What a search found, in words and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...craft_core.evaluation import PictureEncoder, Point, Score
from ...craft_core.search import Setting
from ...craft_core.types import Role
from ..score.scoring import encoder_lines, mean_text

_BRACKETS = (
    "In brackets: 95 % intervals over the pictures of a setting, too narrow for fewer than ten, "
    "and of this pair and this prompt alone. The mean of a setting that went far is a little too "
    "high, since it went far by it."
)


@dataclass(frozen=True)
class TriedSetting:
    """A setting that was tried. together: the harmonic mean of its content and its style."""

    setting: Setting
    point: Point
    together: Score


@dataclass(frozen=True)
class Stop:
    """How a search ended early. most: the pictures that a whole one takes at most. goes_on: whether
    the next run begins with what this one has made."""

    most: int
    goes_on: bool


@dataclass(frozen=True)
class Outcome:
    """best: what comes out. found: what the search liked best; the two differ where the first
    setting was as good on seeds that chose nothing. rows: by falling harmonic mean. on_frontier: by
    rising content. gain: of what was found over the first setting, on those seeds; None where it is
    the first, and where it was not compared. entrants: how many of all settings were tried. stop:
    None for a whole search."""

    best: Setting
    found: Setting
    first: Setting
    rows: Sequence[TriedSetting]
    on_frontier: Sequence[TriedSetting]
    gain: Score | None
    content_weight: float
    pictures: int
    entrants: int
    settings: int
    encoders: Mapping[Role, PictureEncoder]
    stop: Stop | None = None

    @property
    def of_best(self) -> TriedSetting:
        return next(row for row in self.rows if row.setting == self.best)


def search_report(outcome: Outcome) -> str:
    """The best, what it has over the first setting, and the frontier."""
    of_best = outcome.of_best
    weight = outcome.content_weight
    lines = [
        *_heading(outcome),
        f"Found among {outcome.entrants} of {outcome.settings} settings in {outcome.pictures} "
        f"pictures, by the harmonic mean with weights {weight:g} for content and {1 - weight:g} "
        "for style",
        _measured(of_best),
        _gained(outcome),
        *encoder_lines(outcome.encoders),
        "",
        "On the frontier, where no other setting is better at both:",
    ]
    for row in outcome.on_frontier:
        lines += [f"- {row.setting.label}", f"  {_measured(row)}"]
    lines += ["", _BRACKETS]
    return "\n".join(lines)


def _heading(outcome: Outcome) -> list[str]:
    best, stop = outcome.best.label, outcome.stop
    if stop is None:
        return [f"Best: {best}"]
    stopped = f"Stopped after {outcome.pictures} of at most {stop.most} pictures." + (
        " Run goes on from there." if stop.goes_on else ""
    )
    return [stopped, f"Best so far: {best}"]


def _measured(row: TriedSetting) -> str:
    content, style, together = map(mean_text, (row.point.content, row.point.style, row.together))
    return f"content {content}, style {style}, harmonic mean {together}; {row.together.n} pictures"


def _gained(outcome: Outcome) -> str:
    if outcome.gain is None:
        return (
            "It is the first setting of the lists"
            if outcome.found == outcome.first
            else "It has not been compared with the first setting of the lists on further seeds"
        )
    gain = f"{outcome.gain.mean:+.3f}" + mean_text(outcome.gain).removeprefix(
        f"{outcome.gain.mean:.3f}"
    )
    if outcome.best != outcome.found:
        return (
            f"It is the first setting of the lists. The search had preferred "
            f'"{outcome.found.label}", but on {outcome.gain.n} further seeds, which had no part in '
            f"that choice, it scored no better: {gain}"
        )
    return (
        f"Against the first setting of the lists ({outcome.first.label}) on {outcome.gain.n} seeds "
        f"that chose nothing: {gain}"
    )


def preset_json(outcome: Outcome, common: Mapping[str, Any]) -> str:
    """The best setting with all that it takes to use it, its scores, and the frontier's. Of a
    search that was stopped also after how many pictures."""
    whole = {
        **common,
        **_chosen(outcome.of_best, common),
        "content_weight": outcome.content_weight,
        "gain_over_first": _gain_of_best(outcome),
        "first": outcome.first.as_data(),
        "frontier": [_chosen(row, common) for row in outcome.on_frontier],
        **({"stopped_after": outcome.pictures} if outcome.stop else {}),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)


def _gain_of_best(outcome: Outcome) -> dict[str, Any] | None:
    if outcome.gain is None or outcome.best != outcome.found:
        return None
    return asdict(outcome.gain)


def _chosen(row: TriedSetting, common: Mapping[str, Any]) -> dict[str, Any]:
    data = row.setting.as_data()
    scores = (row.point.content, row.point.style, row.together)
    layer_sets = data["layer_sets"] or common["layer_sets"]
    return {**data, "layer_sets": layer_sets, "scores": [asdict(one) for one in scores]}
