"""Partly learnable projections: a LoRA cut into frozen and free blocks, so that two can be joined.

B4M (Xu et al. 2025), arXiv:2403.19456, Sec. 4.1, Eqs. 4-11:

    up = [A; B] over its rows      down = [C, D] over its columns      A C = 0

    dW = up down = [ 0    A D ]    A D is style's alone, B C content's alone,
                   [ B C  B D ]    B D what the two have to do with each other.

A and C are frozen, B is what a content half learns, D what a style half learns. The paper makes A
and C "approximately orthogonal", and rows of a random orthogonal matrix, as its release takes, are
no more so than any others. Ours have rank columns of their own: A lives on the first half of the
rank, C on the second, each orthonormal inside, so every term of A C has a factor 0 and the product
is zero to the bit, in any precision and after any rounding of the file.

Both halves must be learned against the same A and C. These follow from a seed and the layers'
shapes; `basis_id` names them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..types import Factors, Role

_VERSION = 1  # of how A and C are made: part of their name
_NEAR = 1e-2  # how far a stored A or C may be from another's: entries of at most 1, in bf16


@dataclass(frozen=True)
class Plp:
    """One layer's projection; its blocks are named as in the paper, by what they are.

    fixed_up: A (fixed outputs, rank). free_up: B (the other outputs, rank). fixed_down: C (rank,
    fixed inputs). free_down: D (rank, the other inputs). kernel: the trailing ones of a 1x1
    convolution's weight.
    """

    fixed_up: Tensor
    free_up: Tensor
    fixed_down: Tensor
    free_down: Tensor
    kernel: tuple[int, ...] = ()

    def factors(self) -> Factors:
        """The update as any LoRA's: scale 1, which is alpha = rank."""
        down = torch.cat([self.fixed_down, self.free_down], 1)  # (rank, n)
        up = torch.cat([self.fixed_up, self.free_up])  # (out, rank)
        return Factors(down.reshape(*down.shape, *self.kernel), up)

    def to(self, device: torch.device) -> Plp:
        up, down = (self.fixed_up, self.free_up), (self.fixed_down, self.free_down)
        (a, b), (c, d) = ([value.to(device) for value in both] for both in (up, down))
        return Plp(a, b, c, d, self.kernel)

    def learning(self, role: Role) -> Plp:
        """The same numbers; gradients reach content's block B or style's block D alone."""
        if role == "content":
            return replace(self, free_down=self.free_down.detach())
        return replace(self, free_up=self.free_up.detach())

    def alone(self, role: Role) -> Plp:
        """The role's block with zeros for the other's."""
        if role == "content":
            return replace(self, free_down=torch.zeros_like(self.free_down))
        return replace(self, free_up=torch.zeros_like(self.free_up))

    def has_basis_of(self, other: Plp) -> bool:
        """Whether A and C are another's, up to the rounding of a file."""
        pairs = ((self.fixed_up, other.fixed_up), (self.fixed_down, other.fixed_down))
        return all(
            one.shape == two.shape and torch.allclose(one.float(), two.float(), rtol=0, atol=_NEAR)
            for one, two in pairs
        )

    def joined(self, style: Plp) -> Plp:
        """This content half's up with a style half's down: the fusion of Sec. 4.2."""
        return replace(self, fixed_down=style.fixed_down, free_down=style.free_down)


def fixed(share: float, size: int) -> int:
    """How many of a layer's outputs or inputs are frozen (the paper's d), some but not all."""
    return min(max(round(share * size), 1), size - 1)


def can_be_cut(shape: tuple[int, ...]) -> bool:
    """Whether a weight has a frozen and a free side both ways: a linear, or a 1x1 convolution."""
    return min(shape[:2]) > 1 and all(size == 1 for size in shape[2:])


def start(shape: tuple[int, ...], rank: int, share: float, seed: int) -> Plp:
    """A layer's frozen halves with B = 0 and D = 0, float32: dW is zero in all four blocks.

    With A and C orthonormal nothing else starts from the base model: A D = 0 needs D = 0 on A's
    rank columns, B C = 0 needs B = 0 on C's. B learns through C and D through A, so neither is
    held at zero by the other. shape: (out, n) or (out, n, 1, 1). The rank is split in two halves,
    each cut to the size of its frozen block.
    """
    out, n = shape[:2]
    generator = torch.Generator().manual_seed(seed)
    rows, columns = fixed(share, out), fixed(share, n)
    left, right = min(rank // 2, rows), min(rank - rank // 2, columns)
    fixed_up = torch.zeros(rows, left + right)
    fixed_up[:, :left] = _orthonormal(rows, left, generator)
    fixed_down = torch.zeros(left + right, columns)
    fixed_down[left:] = _orthonormal(columns, right, generator).T
    return Plp(
        fixed_up,
        torch.zeros(out - rows, left + right),
        fixed_down,
        torch.zeros(left + right, n - columns),
        tuple(shape[2:]),
    )


def starts(
    shapes: Mapping[str, tuple[int, ...]], rank: int, share: float, seed: int
) -> dict[str, Plp]:
    """`start` for every layer, each from its own name: the order of the layers says nothing."""
    return {path: start(shape, rank, share, _seed(seed, path)) for path, shape in shapes.items()}


def cut(factors: Factors, share: float, strength: float = 1.0) -> Plp:
    """The blocks of a stored half, in float32.

    Its free block is multiplied by scale (1 in our files) and strength; a half has but one.
    """
    rows, columns = fixed(share, factors.up.shape[0]), fixed(share, factors.down.shape[1])
    up, down = factors.up.float(), factors.down.float().flatten(1)  # (out, rank), (rank, n)
    by = factors.scale * strength
    kernel = tuple(factors.down.shape[2:])
    return Plp(up[:rows], by * up[rows:], down[:, :columns], by * down[:, columns:], kernel)


def basis_id(shapes: Mapping[str, tuple[int, ...]], rank: int, share: float, seed: int) -> str:
    """Name of the frozen halves of these layers: halves of the same name can be joined."""
    described = {path: list(shape) for path, shape in shapes.items()}
    named = json.dumps([_VERSION, described, rank, share, seed], sort_keys=True)
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """(rows, columns) float32 with orthonormal columns; columns <= rows."""
    drawn = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(drawn)
    return (q * r.diagonal().sign()).float()  # without the sign, the answer is the library's


def _seed(seed: int, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {path}".encode()).digest()[:7], "big")
