"""What an update costs beside its layer, in multiplications: counted, so it holds for every kind.

The update is run on tensors without numbers, and torch counts its matrix products and
convolutions. Those by one number (the scale, a gate), and number by number, are not among them.
What an update makes for a pass, whatever its inputs, counts by its share of one of 1024 tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..types import LayerPass, LayerUpdate

_SIDES = {0: 1024, 1: 1024, 2: 32, 3: 10}  # of what is counted on, by the axes of a kernel
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def multiplications(update: LayerUpdate) -> float:
    """Per token of a linear layer; per position of a convolution that keeps the picture's size.

    The layer itself has as many as its weight has numbers.
    """
    if not update.inputs:  # of a bias or a normalisation: products number by number
        return 0.0
    size, *kernel = update.inputs
    side, axis = _SIDES[len(kernel)], 1 if kernel else -1
    spatial = [side] * len(kernel)
    x = torch.empty([1, size, *spatial] if kernel else [side, size], device="meta")
    base = torch.empty(
        [1, update.outputs, *spatial] if kernel else [side, update.outputs], device="meta"
    )
    bare = update.mapped(lambda tensor: torch.empty(tensor.shape, device="meta"))
    with FlopCounterMode(display=False) as counter:
        bare.added(LayerPass(x, base, _product, axis))
    return counter.get_total_flops() / 2 / side ** max(1, len(kernel))


def _product(x: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim == 2:
        return F.linear(x, weight)
    return _CONVOLUTIONS[weight.ndim - 2](x, weight, padding="same")
