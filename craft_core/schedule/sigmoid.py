"""Content hands over to style around a midpoint, as sharply as wanted.

One of the monotone functions CRAFT-LoRA (2026), arXiv:2602.18936, App. C, leaves open. The
logistic curve is rescaled so that content is exactly 1 at the first step and 0 at the last:
a_c(p) = (s(p) - s(1)) / (s(0) - s(1)), s(p) = tanh(k (m - p) / 2), p = 1 - u, a_s = 1 - a_c.
"""

from __future__ import annotations

import math
from typing import Annotated

from ..papers import CRAFT
from ..registry import Knob
from .shapes import SHAPES


@SHAPES.register("Sigmoid", paper=CRAFT)
def sigmoid(
    noise: float,
    *,
    steepness: Annotated[
        float, Knob("How sharp the hand-over is.", minimum=0.1, maximum=50.0, step=0.1)
    ] = 10.0,
    midpoint: Annotated[
        float,
        Knob("Progress (0 to 1) around which it happens.", minimum=0.0, maximum=1.0, step=0.01),
    ] = 0.5,
) -> tuple[float, float]:
    """Content early, style late, with a hand-over of chosen place and sharpness."""

    def logistic(progress: float) -> float:
        return math.tanh(steepness * (midpoint - progress) / 2.0)

    first, last = logistic(0.0), logistic(1.0)
    content = (logistic(1.0 - noise) - last) / (first - last)
    return content, 1.0 - content
