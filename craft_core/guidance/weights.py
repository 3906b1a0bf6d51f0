"""What the rules with a weight for each role share: their combination, and the control of its size.

    U + cfg (D_0 - U) + (D_cs - D_0) + sum over roles of (w(t) - 1) (D_role - D_weaker)

U, D_0: the backbone without and with the prompt. D_cs: with the LoRAs of both roles. D_role: with
those of content, of style, or of both. D_weaker: what a rule guides the role away from. At weights
of 1 the sum is empty. At cfg 1 the rest is D_cs alone, so the rule needs no unconditional pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from ..registry import Knob
from .rules import Evaluation, Step, sampled

COND = Evaluation("cond", prompted=True, branches=True)
UNCOND = Evaluation("uncond", prompted=False, branches=False)
BACKBONE = Evaluation("backbone", prompted=True, branches=False)
CONTENT = Evaluation("content", prompted=True, branches=True, roles=("content",))
STYLE = Evaluation("style", prompted=True, branches=True, roles=("style",))

NORMS = ("off", "rescale", "orthogonal")
_LARGEST = 20.0

Weight = Annotated[
    float,
    Knob("Of content and style together. 1: as they are; above: more.", 0.0, _LARGEST, 0.05),
]
ContentWeight = Annotated[
    float,
    Knob("Of content alone, on top. Other than 1 costs evaluations.", 0.0, _LARGEST, 0.05),
]
StyleWeight = Annotated[
    float, Knob("Of style alone, on top. Other than 1 costs evaluations.", 0.0, _LARGEST, 0.05)
]
Norm = Annotated[
    str,
    Knob(
        "Keeps high weights in check. rescale: each picture's contrast stays what it is at weights "
        "of 1. orthogonal: the weights add nothing along the prediction itself.",
        choices=NORMS,
        advanced=True,
    ),
]


def above_one(step: Step, weight: float, content: float, style: float) -> dict[str, float]:
    """w(t) - 1 by the evaluation that each weight is of: of both roles, content and style.

    The weight of both follows the role whose share is the larger.
    """
    of_content, of_style = step.shares
    return {
        "cond": max(of_content, of_style) * (weight - 1.0),
        "content": of_content * (content - 1.0),
        "style": of_style * (style - 1.0),
    }


def weights_now(step: Step, knobs: Mapping[str, Any]) -> tuple[float, float] | None:
    """w(t) of content and of style, a weight of both together and the role's own on top; None where
    a rule has no weights. knobs: all of the rule's."""
    if "weight" not in knobs:
        return None
    names = ("weight", "content_weight", "style_weight")
    amounts = above_one(step, *(knobs[name] for name in names))
    return (
        1.0 + amounts["cond"] + amounts["content"],
        1.0 + amounts["cond"] + amounts["style"],
    )


def weighted(
    predictions: Mapping[str, Tensor],
    step: Step,
    pairs: Mapping[tuple[str, str], float],
    norm: str,
) -> Tensor:
    """The combination above. pairs: w(t) - 1 by (role's evaluation, the weaker one)."""
    # The first two terms are what the sampler makes of D_cs and U, plus (1 - cfg) (D_cs - D_0).
    own = {("cond", "backbone"): 0.0 if step.is_unguided else 1.0 - step.scale}
    if norm == "off":
        for pair, amount in pairs.items():
            own[pair] = own.get(pair, 0.0) + amount
        return _plus(predictions, sampled(predictions, step), own)
    plain = _plus(predictions, sampled(predictions, step), own)
    return _limited(plain, _plus(predictions, plain, pairs), norm)


def _plus(
    predictions: Mapping[str, Tensor], start: Tensor, pairs: Mapping[tuple[str, str], float]
) -> Tensor:
    for (stronger, weaker), amount in pairs.items():
        if amount:
            start = start + amount * (predictions[stronger] - predictions[weaker])
    return start


def _limited(plain: Tensor, made: Tensor, norm: str) -> Tensor:
    """`made` with its size controlled, each image by itself.

    rescale: to the standard deviation of `plain` (Lin et al. 2023, arXiv:2305.08891).
    orthogonal: what was added loses its part parallel to `plain` (Sadat, Hilliges and Weber 2024,
    arXiv:2410.02416).
    """
    if made is plain:
        return plain
    axes = tuple(range(1, plain.ndim))
    tiny = torch.finfo(plain.dtype).tiny
    if norm == "rescale":
        wanted, found = (x.std(dim=axes, keepdim=True, correction=0) for x in (plain, made))
        return made * (wanted / found.clamp(min=tiny))
    added = made - plain
    length = (plain * plain).sum(dim=axes, keepdim=True).clamp(min=tiny)
    return made - plain * ((added * plain).sum(dim=axes, keepdim=True) / length)
