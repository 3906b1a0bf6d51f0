"""The family of run-time fusion methods: how much of each branch a conditional row gets.

A method is a function (bank, routing, *, knobs) -> Gates. To add one: a file named after its paper,
one import in __init__.py, a test. `FusionTraits` declares what it reads, so that a report can
name the inputs it ignores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..registry import Registry
from ..types import Bank, Routing

FUSION = Registry("fusion method")


@dataclass(frozen=True)
class FusionTraits:
    """What a method reads, and how it uses the model.

    markers: the prompt's markers and their gammas. layer_sets: the layer sets the user chose.
    pinned_layer_set: key of the preset the method itself prescribes; its routing must carry that
    preset's sets instead of the user's. statistics: names of what it compares of the pair
    (lora/statistics); its routing carries these and no others. averages: it takes the mean of
    several predictions, which no one set of weights gives.
    """

    markers: bool
    layer_sets: bool
    pinned_layer_set: str | None = None
    statistics: tuple[str, ...] = ()
    averages: bool = False


def gammas_everywhere(bank: Bank, routing: Routing) -> Tensor:
    """(layers, branches) float32: a branch's gamma on every layer it adapts, 0 elsewhere."""
    assert len(routing.gammas) == len(bank.branches), "one routing per branch"
    rows = [
        [gamma if path in branch.layers else 0.0
         for branch, gamma in zip(bank.branches, routing.gammas, strict=True)]
        for path in bank.layers
    ]  # fmt: skip
    return torch.tensor(rows).reshape(len(bank.layers), len(bank.branches))


def gammas_on_layer_sets(bank: Bank, routing: Routing) -> Tensor:
    """(layers, branches) float32: a branch's gamma on its layer set, 0 elsewhere (Eq. 8)."""
    branches = len(bank.branches)
    assert len(routing.gammas) == len(routing.layer_sets) == branches, "one routing per branch"
    table = torch.zeros(len(bank.layers), branches)
    for j, (gamma, layer_set) in enumerate(zip(routing.gammas, routing.layer_sets, strict=True)):
        for i, path in enumerate(bank.layers):
            if path in layer_set:
                table[i, j] = gamma
    return table
