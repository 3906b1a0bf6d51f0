"""EST-LoRA: K-LoRA's choice by energies, begun where the two LoRAs' pictures say.

EST-LoRA (Zhang, Xiong 2025), arXiv:2508.02165: energy of the matrix, style discrepancy, time steps.
The energy of a layer is the squared Frobenius norm of dW, the sum of its squared singular values.
Content acts while E_c >= gamma S(t) E_s, with S(t) = alpha t/T + discrepancy: K-LoRA's growth,
begun at how unlike the LoRAs' own pictures are, 1 - the cosine of their DINO features. Unlike LoRAs
go over to style early, alike ones late. A layer has one switch point.

The paper's formulas were not at hand; this is the rule of its authors' code. Departures: the
discrepancy is a setting, as a method has no pictures to measure it on. gamma is the ratio of all
energies in the layers that both LoRAs adapt, so that the size of a LoRA as a whole does not decide;
`none` is the bare comparison. t is the step of the run, where the code counts forward calls. dW has
its alpha / rank. Equal sides are content's, as in K-LoRA. Several branches of a role act together,
and their energies add up.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated

from ..papers import EST_LORA
from ..registry import Knob
from ..time import Moment
from ..types import Bank, Gates, Routing, Statistics
from .methods import FUSION, FusionTraits, gammas_everywhere
from .selection import by_role, elapsed, gates_at, limits, ratio, switch_points


@FUSION.register(
    "EST-LoRA",
    paper=EST_LORA,
    traits=FusionTraits(markers=True, layer_sets=False, statistics=("squared_norm",)),
)
def est_lora(
    bank: Bank,
    routing: Routing,
    *,
    discrepancy: Annotated[
        float, Knob("How unlike the pictures of the two LoRAs are, each alone with one prompt and "
                    "seed: 1 - the cosine of their DINO features. High: style begins early.",
                    0.0, 2.0, 0.01),
    ] = 0.5,
    alpha: Annotated[float, Knob("How much style gains from the first step to the last.",
                                 0.0, 10.0, 0.05)] = 1.5,
    gamma: Annotated[
        str, Knob("What evens out LoRAs of different size. shared: the ratio of their energies in "
                  "the layers that both adapt. none: 1.", choices=("shared", "none")),
    ] = "shared",
) -> Gates:  # fmt: skip
    """In each layer the LoRA with the larger energy acts: content early, style late."""
    roles = by_role(bank, gammas_everywhere(bank, routing))
    statistics = routing.statistics or Statistics(lambda name: {})
    energies = statistics.shared("squared_norm")
    balance = cache(lambda: _balance(list(energies.values())) if gamma == "shared" else 1.0)
    limit = limits(bank, roles, lambda path: ratio(*energies[path], balance()))

    def scale(moment: Moment) -> float:
        return alpha * elapsed(moment) + discrepancy

    notes = (switch_points("EST-LoRA", (limit - discrepancy) / alpha),) if alpha > 0 else ()
    return Gates(lambda moment: gates_at(limit >= scale(moment), roles), notes=notes)


def _balance(energies: list[tuple[float, float]]) -> float:
    """gamma; 1 where nothing is compared, as one of the two LoRAs is zero in each layer."""
    if not any(min(pair) > 0.0 for pair in energies):
        return 1.0
    content, style = (math.fsum(side) for side in zip(*energies, strict=True))
    return content / style
