"""K-LoRA: in each layer one role acts at a time, content early and style late.

K-LoRA (Ouyang et al. 2025), arXiv:2502.18461. S_c and S_s sum the K = r_c r_s largest |dW| of a
layer (Eqs. 1-5). Content acts while S_c >= gamma S(t) S_s, with S(t) = alpha t/T + beta (Eqs. 6-8,
10), t counted from the first step. S_c and S_s do not depend on t, so a layer has one switch point.

Departures: t is the step of the run, whatever clock a schedule beside it goes by; the release
counts forward calls (both halves of guidance, and every layer its own). Several branches of a role
act together. A layer that one role alone adapts stays that role's. `fixed` is content while
S(t) <= 1, as the paper's Sec. 4.3 must mean: printed is the reverse, against its finding (ii).

gamma is summed over the layers that both LoRAs adapt (`shared`). Eq. 9 sums every layer of each
(`paper`). Where both adapt the same layers, as in the paper, that is the same number. Elsewhere
Eq. 9 counts layers in which nothing is compared: of two LoRAs alike in every layer, one with
three times the other's layers would give gamma = 3 and lose all the layers they share.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated

import torch
from torch import Tensor

from ..papers import K_LORA
from ..registry import Knob
from ..time import Moment
from ..types import Bank, Gates, Routing, Statistics
from .methods import FUSION, FusionTraits, gammas_everywhere
from .selection import by_role, elapsed, gates_at, limits, ratio, switch_points

_TRIM = 3.0  # the release drops layers whose ratio is this many times the mean of all


@FUSION.register(
    "K-LoRA",
    paper=K_LORA,
    traits=FusionTraits(markers=True, layer_sets=False, statistics=("top_k", "abs_sum")),
)
def k_lora(
    bank: Bank,
    routing: Routing,
    *,
    pattern: Annotated[
        str, Knob("s: from content to style. s*: style in the first steps too.",
                  choices=("s", "s*")),
    ] = "s",
    gamma: Annotated[
        str, Knob("What evens out LoRAs of different size. shared: the ratio of all |dW| in the "
                  "layers that both adapt. paper: in every layer of each (Eq. 9). released: the "
                  "mean of the layers' ratios, large ones left out. none: 1.",
                  choices=("shared", "paper", "released", "none")),
    ] = "shared",
    alpha: Annotated[float, Knob("How much style gains from the first step to the last.",
                                 0.0, 10.0, 0.05)] = 1.5,
    beta: Annotated[float, Knob("Weight of style at the first step, for pattern s.",
                                0.0, 10.0, 0.05)] = 0.5,
    beta_star: Annotated[
        float, Knob("Where pattern s* begins; at alpha it falls back to 0. The release: 1.275.",
                    0.0, 10.0, 0.05, advanced=True),
    ] = 1.3,
    selection: Annotated[
        str, Knob("top-k: the method. fixed, random: its ablations.",
                  choices=("top-k", "fixed", "random"), advanced=True),
    ] = "top-k",
    content_share: Annotated[float, Knob("How often random selection takes content.",
                                         0.0, 1.0, 0.01, advanced=True)] = 1 / 3,
    seed: Annotated[int, Knob("Of random selection.", 0, 2**64 - 1, 1, advanced=True)] = 0,
) -> Gates:  # fmt: skip
    """In each layer the LoRA with the larger top entries acts: content early, style late."""
    roles = by_role(bank, gammas_everywhere(bank, routing))
    limits = _limits(bank, roles, routing.statistics, gamma, compare=selection == "top-k")
    shared = limits.isfinite()

    def takes_content(moment: Moment) -> Tensor:
        """(layers,) bool."""
        if selection == "random":
            draws = _draws(seed, moment, len(limits))
            return torch.where(shared, draws < content_share, limits > 0)
        if pattern == "s":
            return limits >= alpha * elapsed(moment) + beta
        scale = alpha * elapsed(moment) + beta_star
        return limits >= (scale % alpha if alpha else scale)

    switches = selection == "top-k" and pattern == "s" and alpha > 0
    notes = (switch_points("K-LoRA", (limits - beta) / alpha),) if switches else ()
    return Gates(lambda moment: gates_at(takes_content(moment), roles), notes=notes)


def _limits(
    bank: Bank,
    roles: tuple[Tensor, Tensor],
    statistics: Statistics | None,
    gamma: str,
    compare: bool,
) -> Tensor:
    """(layers,) S_c / (gamma S_s). Without comparing it is 1, beside a LoRA of zeros infinite."""
    statistics = statistics or Statistics(lambda name: {})
    top = statistics.shared("top_k")
    balance = cache(lambda: _balance(statistics, gamma) if compare else 1.0)

    def limit(path: str) -> float:
        even = balance()  # first: what sums all entries finds the largest in the same pass
        found = ratio(*top[path], even)
        return found if compare or math.isinf(found) else 1.0

    return limits(bank, roles, limit)


def _balance(statistics: Statistics, gamma: str) -> float:
    """gamma, 1 where no layer is compared: one of the two LoRAs is zero in each they share."""
    if gamma == "none":
        return 1.0
    total = list(statistics.shared("abs_sum").values())
    pairs = [pair for pair in total if min(pair) > 0.0]
    if not pairs:
        return 1.0
    if gamma in ("shared", "paper"):
        alone = statistics.alone("abs_sum") if gamma == "paper" else (0.0, 0.0)
        content, style = (math.fsum(side) for side in zip(*total, alone, strict=True))
        return content / style
    ratios = [content / style for content, style in pairs]
    mean = math.fsum(ratios) / len(ratios)
    kept = [ratio for ratio in ratios if ratio < _TRIM * mean]
    return math.fsum(kept) / len(kept)


def _draws(seed: int, moment: Moment, layers: int) -> Tensor:
    """(layers,) uniform in [0, 1), anew at each step."""
    mixed = (seed * 1_000_003 + moment.step_index) % (1 << 63)
    return torch.rand(layers, generator=torch.Generator().manual_seed(mixed))
