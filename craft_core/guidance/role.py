"""Role guidance: the backbone is guided by cfg, content and style each by a weight of its own.

    U + cfg (D_0 - U) + (D_cs - D_0) + sum of (w_role(t) - 1) (D_role - D_0)

The combination is ours (weights.py says what the letters mean). That predictions under different
conditions are weighted and summed is from Liu et al. 2022, arXiv:2206.01714; here the conditions
are LoRAs instead of prompts. A weight of both roles equal to cfg gives ACFG.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..papers import COMPOSABLE_DIFFUSION
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


@GUIDANCE.register(
    "Role guidance",
    paper=COMPOSABLE_DIFFUSION,
    traits=(COND, UNCOND, BACKBONE, CONTENT, STYLE),
)
def role(
    predictions: Mapping[str, Tensor],
    step: Step,
    *,
    weight: Weight = 1.0,
    content_weight: ContentWeight = 1.0,
    style_weight: StyleWeight = 1.0,
    norm: Norm = "off",
) -> Tensor:
    """cfg guides the backbone; content and style have weights of their own, also at cfg 1."""
    amounts = above_one(step, weight, content_weight, style_weight)
    pairs = {(name, "backbone"): amount for name, amount in amounts.items()}
    return weighted(predictions, step, pairs, norm)
