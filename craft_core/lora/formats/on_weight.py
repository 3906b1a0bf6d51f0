"""What the kinds share whose dW depends on the weight they change: DoRA, OFT, BOFT, GLoRA, IA3.

They change the weight they find, so the order of the LoRAs matters: as the host's loaders one after
another, each acts on what those before it made. A branch carries them without touching a weight; a
dW, which statistics, merges and files need, exists once a model's weight is given (`on`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import CraftError
from ...types import Factors, LayerUpdate
from .difference import Difference


class OnWeight(LayerUpdate):
    """An update whose dW is that of the weight it meets. kind: for messages."""

    kind: ClassVar[str]
    on_weight: ClassVar[bool] = True

    @abstractmethod
    def change(self, weight: Tensor, gate: float) -> Tensor:
        """dW at a scale of 1, in float32, of the covered part of a weight in float32."""

    def on(self, weight: Tensor, gate: float = 1.0) -> Difference:
        start, length = self.rows or (0, len(weight))
        covered = weight[start : start + length].float()
        return Difference(self.change(covered, gate), self.scale, self.rows)

    @property
    def rank(self) -> int:
        return min(self.outputs, math.prod(self.inputs))

    @property
    def is_low_rank(self) -> bool:
        return False

    def delta(self) -> Tensor:
        raise self._without_weight()

    def factors(self) -> Factors:
        raise self._without_weight()

    def entries(self) -> Factors:
        raise self._without_weight()

    def _without_weight(self) -> CraftError:
        return CraftError(
            f"{self.kind} changes a layer by what its weight is",
            "Without the model there is no weight, and so no matrix to measure, merge or write",
            "Use the node on the loaded model, or give the model with --checkpoint or --unet",
        )


def channel_norms(weight: Tensor, axis: int) -> Tensor:
    """(out,) for axis 0, (n,) for axis 1: the norms of a weight's rows or columns, in float32, and
    the smallest step of float32 on top, as the host has it."""
    norms = weight.float().transpose(0, axis).flatten(1).norm(dim=1)
    return norms + torch.finfo(torch.float32).eps
