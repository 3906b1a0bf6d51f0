"""squared_norm: the squared Frobenius norm of dW, the energy that EST-LoRA compares.

|dW|^2 = scale^2 tr((up^T up)(down down^T)): rank x rank matrices in float64, exact and cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ...types import Factors
from ..factors import combine
from .registry import statistic


def frobenius_norm(factors: Factors | Sequence[Factors]) -> float:
    """The Frobenius norm of dW, without forming dW.

    factors: one update, or all that a layer holds (their sum is measured).
    """
    scale, square = _square(factors)
    return scale * square**0.5


@statistic("squared_norm")
def squared_norm(factors: Sequence[Factors], k: int) -> Mapping[str, float]:
    scale, square = _square(factors)
    return {"squared_norm": scale**2 * square}


@torch.no_grad()
def _square(factors: Factors | Sequence[Factors]) -> tuple[float, float]:
    """(absolute scale, squared norm of up @ down)."""
    one = factors if isinstance(factors, Factors) else combine(factors)
    up, down = one.up, one.down.flatten(1)  # (out, rank), (rank, n * kernel)
    if up.device.type == "mps":  # has no float64
        up, down = up.cpu(), down.cpu()
    up, down = up.double(), down.double()
    square = ((up.T @ up) * (down @ down.T)).sum().item()
    return abs(one.scale), max(square, 0.0)  # rounding may leave a zero just below 0
