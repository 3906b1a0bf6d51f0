"""The same strengths at every step: the ablation "constant temporal scaling".

CRAFT-LoRA (2026), arXiv:2602.18936, App. C. At 1 and 1 it is the absence of a schedule.
"""

from __future__ import annotations

from typing import Annotated

from ..papers import CRAFT
from ..registry import Knob
from .shapes import SHAPES


@SHAPES.register("Constant", paper=CRAFT)
def constant(
    noise: float,
    *,
    content: Annotated[float, Knob("Content strength at every step.", 0.0, 1.0, 0.01)] = 1.0,
    style: Annotated[float, Knob("Style strength at every step.", 0.0, 1.0, 0.01)] = 1.0,
) -> tuple[float, float]:
    """The same strengths at every step."""
    return content, style
