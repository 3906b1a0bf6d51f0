"""Content fades out as the noise does, style fades in: a_c = u, a_s = 1 - u.

One of the monotone functions CRAFT-LoRA (2026), arXiv:2602.18936, App. C, leaves open.
"""

from __future__ import annotations

from ..papers import CRAFT
from .shapes import SHAPES


@SHAPES.register("Linear", paper=CRAFT)
def linear(noise: float) -> tuple[float, float]:
    """Content early, style late, changing evenly."""
    return noise, 1.0 - noise
