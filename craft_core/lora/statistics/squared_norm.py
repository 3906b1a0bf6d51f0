"""squared_norm: the squared Frobenius norm of dW, the energy that EST-LoRA compares.

|dW|^2 = scale^2 tr((up^T up)(down down^T)): rank x rank matrices in float64, exact and cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ...types import LayerUpdate
from ..factors import spread
from .registry import statistic


def frobenius_norm(updates: LayerUpdate | Sequence[LayerUpdate]) -> float:
    """The Frobenius norm of dW, without forming dW.

    updates: one, or all that a layer holds (their sum is measured).
    """
    scale, square = _square(updates)
    return scale * square**0.5


@statistic("squared_norm")
def squared_norm(updates: Sequence[LayerUpdate], k: int) -> Mapping[str, float]:
    scale, square = _square(updates)
    return {"squared_norm": scale**2 * square}


@torch.no_grad()
def _square(updates: LayerUpdate | Sequence[LayerUpdate]) -> tuple[float, float]:
    """(absolute scale, squared norm of up @ down)."""
    one = spread(updates)
    up, down = one.up, one.flat_down  # (out, rank), (rank, n * kernel)
    if up.device.type not in ("cpu", "cuda"):  # some have no float64
        up, down = up.cpu(), down.cpu()
    up, down = up.double(), down.double()
    square = ((up.T @ up) * (down @ down.T)).sum().item()
    return abs(one.scale), max(square, 0.0)  # rounding may leave a zero just below 0
