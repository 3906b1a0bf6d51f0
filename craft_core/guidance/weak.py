"""Guidance of a role away from a weaker version of itself.

    U + cfg (D_0 - U) + (D_cs - D_0) + sum of (w_role(t) - 1) (D_role - D_role at a fraction)

Autoguidance, Karras et al. 2024, arXiv:2406.02507: D_weak + w (D - D_weak), with a weaker version
of the same model. Here the weaker one is the same role at a fraction of its strength.
AutoLoRA, Kasymov et al. 2024, arXiv:2410.03941, guides a LoRA away from the backbone, as `role`
does and as this rule does at a fraction of 0. The combination with cfg is ours (weights.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from torch import Tensor

from ..papers import AUTOGUIDANCE
from ..registry import Knob
from .rules import GUIDANCE, Step
from .weights import (
    BACKBONE,
    COND,
    CONTENT,
    STYLE,
    UNCOND,
    ContentWeight,
    Norm,
    StyleWeight,
    Weight,
    above_one,
    weighted,
)

_ROLES = (COND, CONTENT, STYLE)
_WEAKER = tuple(replace(own, name=f"weak {own.name}", fraction="fraction") for own in _ROLES)


@GUIDANCE.register(
    "Weaker self", paper=AUTOGUIDANCE, traits=(COND, UNCOND, BACKBONE, CONTENT, STYLE, *_WEAKER)
)
def weak(
    predictions: Mapping[str, Tensor],
    step: Step,
    *,
    weight: Weight = 1.0,
    content_weight: ContentWeight = 1.0,
    style_weight: StyleWeight = 1.0,
    fraction: Annotated[
        float, Knob("Strength of the weaker version, as a part of the own one.", 0.0, 1.0, 0.05)
    ] = 0.5,
    norm: Norm = "off",
) -> Tensor:
    """Like role, but a role is guided away from itself at a fraction of its strength."""
    amounts = above_one(step, weight, content_weight, style_weight)
    pairs = {(name, f"weak {name}"): amount for name, amount in amounts.items()}
    return weighted(predictions, step, pairs, norm)
