"""The settings that no other beats at both content and style: the Pareto frontier of two scores.

One number for both hides what was traded. A setting is on the frontier where no other is at least
as good at both and better at one. Means of few pictures are unsure, so what lies below by its
means is told from what lies below by its intervals, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .score import Score


@dataclass(frozen=True)
class Point:
    """A setting by its two scores, each with its interval where pictures were repeated."""

    name: str
    content: Score
    style: Score

    @property
    def means(self) -> tuple[float, float]:
        return self.content.mean, self.style.mean


def frontier(points: Sequence[Point]) -> list[int]:
    """The places of the points on the frontier, by rising content; of equal points all.

    Along it style falls. It holds the best of either score and of any mean that rises with both.
    """
    best = [
        place
        for place, point in enumerate(points)
        if not any(_beats(other.means, point.means) for other in points)
    ]
    return sorted(best, key=lambda place: points[place].content.mean)


def surely_below(points: Sequence[Point]) -> list[int]:
    """The places of the points that another beats by both intervals, which do not touch.

    A point without an interval is taken at its mean. None of them is on the frontier.
    """
    return [
        place
        for place, point in enumerate(points)
        if any(
            _low(other.content) > _high(point.content) and _low(other.style) > _high(point.style)
            for other in points
        )
    ]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def _low(score: Score) -> float:
    return score.mean if score.low is None else score.low


def _high(score: Score) -> float:
    return score.mean if score.high is None else score.high
