"""What an update costs beside its layer, in multiplications: counted, so it holds for every kind.

The update is run on tensors without numbers, and torch counts its matrix products and
convolutions. Those by one number (the scale, a gate) are not among them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..types import LayerPass, LayerUpdate

_SIDE = 8  # of the picture that a convolution is counted on
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def multiplications(update: LayerUpdate) -> float:
    """Per token of a linear layer; per position of a convolution that keeps the picture's size.

    The layer itself has as many as its weight has numbers.
    """
    if not update.inputs:  # of a bias or a normalisation: products number by number
        return 0.0
    size, *kernel = update.inputs
    x = torch.empty(1, size, *[_SIDE] * len(kernel), device="meta")
    base = torch.empty(1, update.outputs, *x.shape[2:], device="meta")
    bare = update.mapped(lambda tensor: torch.empty(tensor.shape, device="meta"))
    with FlopCounterMode(display=False) as counter:
        bare.added(LayerPass(x, base, _product))
    return counter.get_total_flops() / 2 / _SIDE ** len(kernel)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim == 2:
        return F.linear(x, weight)
    return _CONVOLUTIONS[weight.ndim - 2](x, weight, padding="same")
