"""In each layer one role acts at a time: content until a scale that grows with time reaches the
layer's limit, then style. What K-LoRA and EST-LoRA have in common.

K-LoRA (Ouyang et al. 2025), arXiv:2502.18461, Eqs. 6-8. A layer's limit is (content's number) /
(gamma * style's number), so that content >= gamma * S(t) * style is limit >= S(t).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..time import Moment
from ..types import Bank


def by_role(bank: Bank, table: Tensor) -> tuple[Tensor, Tensor]:
    """The (layers, branches) gates where content acts, and where style acts."""
    content = torch.tensor([float(branch.role == "content") for branch in bank.branches])
    return table * content, table * (1.0 - content)


def limits(bank: Bank, roles: tuple[Tensor, Tensor], limit: Callable[[str], float]) -> Tensor:
    """(layers,) float64: limit(module path) where both roles can act; inf where content alone
    can, -inf where style alone can. roles: as by_role gives them."""
    found = []
    present = zip(bank.layers, *(table.any(dim=1).tolist() for table in roles), strict=True)
    for path, has_content, has_style in present:
        if has_content and has_style:
            found.append(limit(path))
        else:
            found.append(math.inf if has_content else -math.inf)
    return torch.tensor(found, dtype=torch.float64)


def ratio(content: float, style: float, balance: float) -> float:
    """content / (balance * style); a LoRA of zeros leaves the layer to the other."""
    if style == 0.0:
        return math.inf
    return content / (balance * style) if content else -math.inf


def elapsed(moment: Moment) -> float:
    """t / T of Eq. 7: 0 at the first step, (T - 1) / T at the last."""
    return moment.step / moment.steps


def gates_at(takes_content: Tensor, roles: tuple[Tensor, Tensor]) -> Tensor:
    """(1, layers, branches). takes_content: (layers,) bool."""
    return torch.where(takes_content[:, None], *roles)[None]


def switch_points(name: str, reached: Tensor) -> str:
    """A line for the report. reached: (layers,) share of the steps after which style acts."""
    inside = reached[(reached >= 0) & (reached < 1)]
    counts = f"content keeps {int((reached >= 1).sum())} layers, style {int((reached < 0).sum())}"
    if not len(inside):
        return f"{name}: {counts}; none switches"
    low, middle, high = (100 * inside.quantile(q).item() for q in (0.0, 0.5, 1.0))
    return (
        f"{name}: {counts}; {len(inside)} switch after {low:.0f} to {high:.0f} % of the steps "
        f"(half of them by {middle:.0f} %)"
    )
