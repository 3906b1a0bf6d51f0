"""The paper's default: content early, style late, along half a cosine.

CRAFT-LoRA (2026), arXiv:2602.18936, App. C: f(u) = (1 - cos(pi u)) / 2, a_c = f(u),
a_s = 1 - f(u), with u the noise level (1 first, 0 last). gamma_c and gamma_s, which the paper
multiplies in here, are the gates' (fusion/craft.py).
"""

from __future__ import annotations

import math

from ..papers import CRAFT
from .shapes import SHAPES


@SHAPES.register("Cosine (paper)", paper=CRAFT)
def cosine(noise: float) -> tuple[float, float]:
    """Content early, style late, along half a cosine: the paper's default."""
    content = (1.0 - math.cos(math.pi * noise)) / 2.0
    return content, 1.0 - content
