"""How many directions each layer gives up: r_l falls linearly from r_max to r_min with depth.

CRAFT-LoRA (2026), arXiv:2602.18936, Eq. 2: r_l = r_max - (l - 1) / (L - 1) * (r_max - r_min) for
l = 1..L in forward depth order. Departure: the authors' release orders layers by the kind of
their matrix; here earlier layers get the higher ranks, as the paper says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import CraftError
from .subspace import Side, dimension


@dataclass(frozen=True)
class RankSchedule:
    """Ranks by module path, in depth order.

    capped: layers smaller than their scheduled rank, with the rank Eq. 2 asked for.
    emptied: layers whose rank is their whole dimension; full-strength projection leaves
    nothing of such a weight, so better leave the layer out (a U-Net's last convolution, say).
    """

    ranks: Mapping[str, int]
    capped: Mapping[str, int]
    emptied: tuple[str, ...]


def rank_schedule(
    layers: Mapping[str, tuple[int, ...]],
    r_max: int = 64,
    r_min: int = 4,
    side: Side = "output",
) -> RankSchedule:
    """Eq. 2 over `layers`: module path -> weight shape, in forward depth order.

    Ranks are rounded to the nearest whole number, halves up, and capped at the layer's
    dimension on that side (out, or n * kernel). A single layer gets r_max.
    """
    _require_ranks(r_max, r_min)
    if not layers:
        raise CraftError(
            "No layers were given to schedule ranks for",
            "A schedule needs at least one linear or convolution layer",
            "Check the layer patterns against the model",
        )
    gaps = max(len(layers) - 1, 1)
    ranks, capped, emptied = {}, {}, []
    for depth, (path, shape) in enumerate(layers.items()):
        asked = _rounded(r_max * gaps - depth * (r_max - r_min), gaps)
        available = dimension(shape, side)
        ranks[path] = min(asked, available)
        if asked > available:
            capped[path] = asked
        if asked >= available:
            emptied.append(path)
    return RankSchedule(ranks, capped, tuple(emptied))


def _rounded(numerator: int, denominator: int) -> int:
    """Nearest whole number, halves up, without a floating-point detour."""
    return (2 * numerator + denominator) // (2 * denominator)


def _require_ranks(r_max: int, r_min: int) -> None:
    if not (isinstance(r_max, int) and isinstance(r_min, int) and 1 <= r_min <= r_max):
        raise CraftError(
            f"r_max = {r_max!r}, r_min = {r_min!r}",
            "Ranks are whole numbers with 1 <= r_min <= r_max",
            "The paper's are r_max = 64 and r_min = 4",
        )
