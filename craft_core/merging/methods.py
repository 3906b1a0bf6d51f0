"""The family of weight merges: the updates of one layer become one update.

A method is a function (updates, *, knobs) -> update of one layer. Strengths multiply the updates
before a method sees them, so a strength of 0 takes a LoRA out and every method treats them
alike. A method that has an exact low-rank form returns Factors; any other returns dW itself.
Branches that do not adapt the layer are not among its updates, so what only one branch adapts is
merged with nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..lora.without_model import plain_name
from ..registry import Registry
from ..types import Factors

MERGES = Registry("weight merge")
_BLOCK = {"cpu": 1 << 17}  # entries of dW looked at together: on a CPU what its cache holds
_LARGE_BLOCK = 1 << 24


@dataclass(frozen=True)
class MergeTraits:
    """exact: the method returns Factors, so its file needs no rank to be cut to."""

    exact: bool


@dataclass(frozen=True)
class Updates:
    """What the branches do to one layer.

    factors: one per branch that adapts it, strength folded into scale; rows = None.
    path: the layer's name, from which its random numbers come.
    """

    path: str
    factors: tuple[Factors, ...]

    @classmethod
    def of(cls, path: str, factors: Sequence[Factors], strengths: Sequence[float]) -> Updates:
        """strengths: one per update; an update of strength 0 takes no part."""
        weighted = [
            replace(one, scale=one.scale * strength)
            for one, strength in zip(factors, strengths, strict=True)
            if strength
        ]
        assert all(one.rows is None for one in weighted), "updates cover their whole layer"
        return cls(path, tuple(weighted))

    def dense(self) -> Tensor:
        """(branches, out, n * kernel) float32: every dW of this layer."""
        first = self.factors[0]
        shape = (len(self.factors), first.outputs, first.flat_down.shape[1])
        made = first.up.new_empty(shape, dtype=torch.float32)
        for one, out in zip(self.factors, made, strict=True):
            torch.mm(one.up.float(), one.flat_down.float(), out=out).mul_(one.scale)
        return made

    def generator(self, seed: int) -> torch.Generator:
        """Random numbers of (seed, layer): they do not depend on which layers came before, nor
        on how files name the layer."""
        digest = hashlib.sha256(f"{seed} {plain_name(self.path)}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def block_of(tensor: Tensor) -> int:
    """How many of its entries are best looked at together, where each is passed over often."""
    return _BLOCK.get(tensor.device.type, _LARGE_BLOCK)
