"""Any course of content and style the user draws: curves through points.

x is progress (0 first step, 1 last), y strength; before the first point and after the last the
curve is level. Between points it is a cubic that never overshoots (Fritsch and
Carlson 1980, "Monotone Piecewise Cubic Interpolation", SIAM J. Numer. Anal. 17(2), with the mean
of the neighbouring secants as first guess of a slope), as the host's curve editor draws it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence, Sized
from itertools import pairwise
from typing import Annotated

from ..messages import TOO_MANY_POINTS, WRONG_POINTS
from ..registry import Knob
from .shapes import SHAPES

MOST_POINTS = 1000
_QUOTED = 200  # characters of wrong points in a message
_LONGEST = 100_000  # characters of a curve that is written; it is read anew for each moment
_LONGEST_NUMBER = 300  # characters

Points = tuple[tuple[float, float], ...]


@SHAPES.register("Free curve")
def curve(
    noise: float,
    *,
    content: Annotated[Points, Knob("Content: (progress, strength) points.")] = (
        (0.0, 1.0),
        (1.0, 0.0),
    ),
    style: Annotated[Points, Knob("Style: (progress, strength) points.")] = (
        (0.0, 0.0),
        (1.0, 1.0),
    ),
) -> tuple[float, float]:
    """Draw both courses yourself."""
    progress = 1.0 - noise
    return (
        interpolate(read_points(content, "content"), progress),
        interpolate(read_points(style, "style"), progress),
    )


def read_points(points: str | Sequence[Sequence[float]], role: str = "curve") -> Points:
    """Points sorted by x, from (x, y) pairs or text such as "0 1, 0.5 0.3, 1 0".

    Raises CraftError for no points, more than MOST_POINTS, values outside [0, 1] and two points of
    the same x.
    """
    listed = points.split(",") if isinstance(points, str) else points
    count = len(listed) if isinstance(listed, Sized) else 0
    if count > MOST_POINTS:
        raise TOO_MANY_POINTS.error(role=role, count=count, most=MOST_POINTS)
    try:
        if isinstance(points, str) and len(points) > _LONGEST:
            raise ValueError("it is too long")
        pairs = [pair.split() for pair in listed] if isinstance(points, str) else points
        read = tuple(sorted((_number(x), _number(y)) for x, y in pairs))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WRONG_POINTS.error(role=role, points=_quoted(points)) from error
    inside = all(0.0 <= value <= 1.0 for point in read for value in point)
    if not read or not inside or len({x for x, _ in read}) < len(read):
        raise WRONG_POINTS.error(role=role, points=_quoted(points))
    return read


def _number(value: float | str) -> float:
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        raise ValueError("it is no number")
    return float(value)


def _quoted(points: str | Sequence[Sequence[float]]) -> str:
    try:
        return repr(points[:_QUOTED] if isinstance(points, str) else points)[:_QUOTED]
    except RecursionError:
        return "nested too deeply"


def interpolate(points: Points, x: float) -> float:
    """The curve through sorted points at x; it stays within the y of the neighbouring points."""
    if x <= points[0][0]:
        return points[0][1]
    if x >= points[-1][0]:
        return points[-1][1]
    right = bisect_right(points, x, key=lambda point: point[0])
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    t = (x - x0) / (x1 - x0)
    slopes = _slopes(points)
    bend0 = (x1 - x0) * slopes[right - 1] - (y1 - y0)
    bend1 = (y1 - y0) - (x1 - x0) * slopes[right]
    y = y0 + t * (y1 - y0) + t * (1.0 - t) * (bend0 * (1.0 - t) + bend1 * t)
    return min(max(y, min(y0, y1)), max(y0, y1))  # rounding only: the cubic does not overshoot


def _slopes(points: Points) -> list[float]:
    """Slopes at the points, limited to Fritsch and Carlson's circle alpha^2 + beta^2 <= 9."""
    pairs = pairwise(points)
    secants = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairs]
    inner = [
        (left + right) / 2.0 if left * right > 0.0 else 0.0 for left, right in pairwise(secants)
    ]
    slopes = [secants[0], *inner, secants[-1]]
    for index, secant in enumerate(secants):
        if secant == 0.0:
            slopes[index] = slopes[index + 1] = 0.0
            continue
        size = math.hypot(slopes[index] / secant, slopes[index + 1] / secant)
        if size > 3.0:
            slopes[index] *= 3.0 / size
            slopes[index + 1] *= 3.0 / size
    return slopes
