"""Assign each layer to the role whose LoRA has the larger share of its top-K energy there.

After K-LoRA (Ouyang et al. 2025), arXiv:2502.18461, Eqs. 3-6: S_c and S_s sum the K = r_c r_s
largest |dW| of a layer, and content takes the layer if S_c > gamma S_s. K-LoRA decides this anew
at each step, with a scale that grows; here it is decided once, for any architecture.

Departure: gamma is sum_l S_c / sum_l S_s. The paper's Eq. 9 takes sum_l sum |dW_c| / sum_l
sum |dW_s|, which favours the LoRA with the heavier tails: of two random LoRAs of ranks 64 and 4,
the smaller one would take every layer. With ours the shares of each role add up to 1, so each
role wins somewhere.

Our choices where the paper has none. Shares are taken over the layers both roles adapt; a layer
only one role adapts goes to it. Equal shares (to one part in a million) go to the role with fewer
layers so far, in depth order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..errors import CraftError
from ..lora.statistics import pair_statistics
from ..types import ROLES, Branch, Role, Statistics

_TIE = 1e-6


def split_by_energy(
    branches: Sequence[Branch], depth_order: Iterable[str], statistics: Statistics | None = None
) -> tuple[frozenset[str], frozenset[str]]:
    """(content, style): every layer that a branch adapts, in exactly one of the two sets.

    depth_order: module paths in forward order. statistics: of these branches, where there are.
    Raises CraftError without any branch, and for weights that are not finite.
    """
    if not branches:
        raise no_lora()
    top = dict((statistics or pair_statistics(branches, depth_order)).shared("top_k"))
    adapted = [{p for b in branches if b.role == role for p in b.layers} for role in ROLES]
    sets: dict[Role, set[str]] = {
        role: own - top.keys() for role, own in zip(ROLES, adapted, strict=True)
    }
    totals = [math.fsum(pair[role] for pair in top.values()) for role in range(len(ROLES))]
    for path, pair in top.items():
        winner = _winner(_share(pair[0], totals[0]), _share(pair[1], totals[1]))
        sets[winner or min(ROLES, key=lambda role: len(sets[role]))].add(path)
    return frozenset(sets["content"]), frozenset(sets["style"])


def no_lora() -> CraftError:
    return CraftError(
        "The preset auto was given no LoRA",
        "It compares the content LoRAs with the style LoRAs",
        "Connect them, or choose another preset",
    )


def _share(energy: float, total: float) -> float:
    """Comparing shares is comparing S_c with gamma S_s, without dividing by a LoRA of zeros."""
    return energy / total if total > 0.0 else 0.0


def _winner(content: float, style: float) -> Role | None:
    if math.isclose(content, style, rel_tol=_TIE):
        return None
    return "content" if content > style else "style"
