"""The gates a row finally gets: method's gate * branch's strength * schedule * the layer's own
scale, each applied once.

CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 8-9 together, and the scales of App. B.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..time import ANY_MOMENT, Moment
from ..types import Bank, Gates


class Timed(Protocol):
    """What may change with time: (a_c, a_s) at a moment. A Schedule is one.

    steady: whether they are the same at every moment.
    """

    @property
    def steady(self) -> bool: ...

    def strengths(self, moment: Moment) -> tuple[float, float]: ...


def compose(
    gates: Gates, bank: Bank, schedule: Timed | None = None, layer_scales: Tensor | None = None
) -> Gates:
    """gate[view, layer, j](t) * strength_j * a_role(j)(t) * scale[layer, j]; all else is kept.
    Constant gates stay constant unless the schedule moves.

    layer_scales: (layers, branches), of an expert encoder; None for 1 everywhere.
    Factors of exactly 1 leave the method's gates bitwise as they are; without a schedule and
    scales and with all strengths 1 the gates themselves are returned.
    """
    dials = [(branch.strength, branch.role) for branch in bank.branches]  # not the factors
    neutral = schedule is None and all(strength == 1.0 for strength, _ in dials)
    if neutral and layer_scales is None:
        return gates

    def at(moment: Moment) -> Tensor:
        return scaled(gates.at(moment), moment)

    def scaled(now: Tensor, moment: Moment) -> Tensor:
        content, style = (1.0, 1.0) if schedule is None else schedule.strengths(moment)
        factors = [strength * (content if role == "content" else style) for strength, role in dials]
        now = now * torch.tensor(factors, dtype=torch.float32)
        return now if layer_scales is None else now * layer_scales

    constant = gates.constant if schedule is None or schedule.steady else None
    if constant is not None:
        constant = scaled(constant, ANY_MOMENT)
    return replace(gates, at=at, constant=constant)
