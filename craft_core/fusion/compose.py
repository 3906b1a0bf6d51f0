"""The gates a row finally gets: method's gate * branch's strength * schedule, each applied once.

CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 8-9 together.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..types import Bank, Gates, Moment


class Timed(Protocol):
    """What changes with time: (a_c, a_s) at a moment. A Schedule is one."""

    def strengths(self, moment: Moment) -> tuple[float, float]: ...


def compose(gates: Gates, bank: Bank, schedule: Timed | None = None) -> Gates:
    """gate[view, layer, j](t) * strength_j * a_role(j)(t), views and notes kept.

    Factors of exactly 1 leave the method's gates bitwise as they are; without a schedule and with
    all strengths 1 the gates themselves are returned.
    """
    dials = [(branch.strength, branch.role) for branch in bank.branches]  # not the factors
    if schedule is None and all(strength == 1.0 for strength, _ in dials):
        return gates

    def at(moment: Moment) -> Tensor:
        content, style = (1.0, 1.0) if schedule is None else schedule.strengths(moment)
        factors = [strength * (content if role == "content" else style) for strength, role in dials]
        return gates.at(moment) * torch.tensor(factors, dtype=torch.float32)

    return Gates(at, gates.views, gates.notes)
