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
        return torch.stack([one.delta().reshape(one.outputs, -1) for one in self.factors])

    def generator(self, seed: int) -> torch.Generator:
        """Random numbers of (seed, layer): they do not depend on which layers came before, nor
        on how files name the layer."""
        digest = hashlib.sha256(f"{seed} {plain_name(self.path)}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
