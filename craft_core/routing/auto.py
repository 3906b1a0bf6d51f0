"""Assign each layer to the role whose LoRA has the larger share of its top-K energy there.

After K-LoRA (Ouyang et al. 2025), arXiv:2502.18461, Eqs. 3-6: S_c and S_s sum the K = r_c r_s
largest |dW| of a layer, and content takes the layer if S_c > gamma S_s. K-LoRA decides this anew
at each step, with a scale that grows; here it is decided once, for any architecture.

Departure: gamma is sum_l S_c / sum_l S_s. The paper's Eq. 9 takes sum_l sum |dW_c| / sum_l
sum |dW_s|, which favours the LoRA with the heavier tails: of two random LoRAs of ranks 64 and 4,
the smaller one would take every layer. With ours the shares of each role add up to 1, so each
role wins somewhere.

Our choices where the paper has none. Shares are taken over the layers both roles adapt; a layer
only one role adapts goes to it. Several branches of a role add their S, strengths not counted:
moving a dial must not move a layer. r is the largest rank of a role's factors in the layer. Equal
shares (to one part in a million) go to the role with fewer layers so far, in depth order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from ..errors import CraftError
from ..lora.energy import top_k_sum
from ..types import ROLES, Branch, Role

_TIE = 1e-6


def split_by_energy(
    branches: Sequence[Branch], depth_order: Iterable[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """(content, style): every layer that a branch adapts, in exactly one of the two sets.

    depth_order: module paths in forward order. Raises CraftError without any branch, and for
    weights that are not finite.
    """
    if not branches:
        raise CraftError(
            "The preset auto was given no LoRA",
            "It compares the content LoRAs with the style LoRAs",
            "Connect them, or choose another preset",
        )
    content, style = ([b for b in branches if b.role == role] for role in ROLES)
    adapted = [{path for branch in group for path in branch.layers} for group in (content, style)]
    both = adapted[0] & adapted[1]
    sets: dict[Role, set[str]] = {"content": adapted[0] - both, "style": adapted[1] - both}
    shared = [path for path in depth_order if path in both]
    energies = [layer_energies(content, style, path) for path in shared]
    totals = [math.fsum(pair[role] for pair in energies) for role in range(len(ROLES))]
    for path, pair in zip(shared, energies, strict=True):
        winner = _winner(_share(pair[0], totals[0]), _share(pair[1], totals[1]))
        sets[winner or min(ROLES, key=lambda role: len(sets[role]))].add(path)
    return frozenset(sets["content"]), frozenset(sets["style"])


@torch.no_grad()
def layer_energies(
    content: Sequence[Branch], style: Sequence[Branch], path: str
) -> tuple[float, float]:
    """(S_c, S_s) in a layer that both roles adapt (Eqs. 3-5). Memory: dW of this one layer."""
    k = _rank(content, path) * _rank(style, path)
    return _energy(content, path, k), _energy(style, path, k)


def _energy(branches: Sequence[Branch], path: str, k: int) -> float:
    """S of a role: the sum over its branches in the layer."""
    total = 0.0
    for branch in branches:
        if path not in branch.layers:
            continue
        energy = top_k_sum(branch.layers[path], k)
        if not math.isfinite(energy):
            raise CraftError(
                f"{branch.name} has weights that are not finite numbers in {path}",
                "Layers can be compared only where all weights are finite",
                "Use another copy of the file; this one is broken",
            )
        total += energy
    return total


def _rank(branches: Sequence[Branch], path: str) -> int:
    return max(factors.rank for branch in branches for factors in branch.layers.get(path, ()))


def _share(energy: float, total: float) -> float:
    """Comparing shares is comparing S_c with gamma S_s, without dividing by a LoRA of zeros."""
    return energy / total if total > 0.0 else 0.0


def _winner(content: float, style: float) -> Role | None:
    if math.isclose(content, style, rel_tol=_TIE):
        return None
    return "content" if content > style else "style"
