"""Each role is fully on within its window of sampling and off outside: binary schedules.

CRAFT-LoRA (2026), arXiv:2602.18936, Eq. 9 and App. C: a_c, a_s in {0, 1} on step sets T_c, T_s.
The paper does not give T_c and T_s; our defaults are its cosine rounded to 0 and 1: content in
the first half, style in the second. Both ends of a window belong to it.
"""

from __future__ import annotations

from typing import Annotated

from ..messages import WINDOW_REVERSED
from ..papers import CRAFT
from ..registry import Knob
from .shapes import SHAPES

_ROUNDING = 1e-6  # a step that rounding put just outside an end still counts as on it


@SHAPES.register("Windows", paper=CRAFT)
def window(
    noise: float,
    *,
    content_start: Annotated[float, Knob("Progress where content starts.", 0.0, 1.0, 0.01)] = 0.0,
    content_end: Annotated[float, Knob("Progress where content ends.", 0.0, 1.0, 0.01)] = 0.5,
    style_start: Annotated[float, Knob("Progress where style starts.", 0.0, 1.0, 0.01)] = 0.5,
    style_end: Annotated[float, Knob("Progress where style ends.", 0.0, 1.0, 0.01)] = 1.0,
) -> tuple[float, float]:
    """On or off: each role acts within its own window of sampling."""
    content = _inside(1.0 - noise, content_start, content_end, "content")
    return content, _inside(1.0 - noise, style_start, style_end, "style")


def _inside(progress: float, start: float, end: float, role: str) -> float:
    if start > end:
        raise WINDOW_REVERSED.error(role=role, start=start, end=end)
    return 1.0 if start - _ROUNDING <= progress <= end + _ROUNDING else 0.0
