"""Decompositions of matrices on whatever device a training runs.

A Mac's card has none of torch's, and those of others may lack some: they are made on the CPU then.
"""

from __future__ import annotations

import torch
from torch import Tensor

_COMPLETE = ("cpu", "cuda")


def decomposed(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Q (..., out, rank) and R of matrices (..., out, rank), where they lie; differentiable."""
    q, r = torch.linalg.qr(_within_reach(matrices))
    return q.to(matrices.device), r.to(matrices.device)


def solution_of(matrix: Tensor, right: Tensor) -> Tensor:
    """X (n, k) with matrix (n, n) X = right (n, k), where they lie; differentiable."""
    found = torch.linalg.solve(_within_reach(matrix), _within_reach(right))
    return found.to(matrix.device)


def _within_reach(matrices: Tensor) -> Tensor:
    return matrices if matrices.device.type in _COMPLETE else matrices.cpu()
