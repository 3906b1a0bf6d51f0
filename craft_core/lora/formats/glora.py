"""GLoRA: W' = W + scale * (W A + B), A and B of low rank (Chavan et al. 2023, arXiv:2306.07967).

A mixes the inputs before the weight, which costs a second product with it; B is a plain LoRA. For a
convolution A mixes channels, the same at every place. LyCORIS has two layouts, the older with the
factors' names the other way round; which one a file has, is told by their shapes, as in the host.
The older one is for linear layers and 1x1 convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...types import Factors, LayerPass
from ..peft_config import Stated
from .kinds import KINDS, AdapterKind, ending
from .on_weight import OnWeight
from .parts import AdaptedLayer, Parts, fits, misfit, ranks_differ, scale_from

_PARTS = ("a1", "a2", "b1", "b2")


@dataclass(frozen=True)
class Glora(OnWeight):
    """A = left right: left (n, r), right (r, n). B = up down, as in Factors."""

    kind: ClassVar[str] = "GLoRA"

    left: Tensor
    right: Tensor
    down: Tensor
    up: Tensor
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def outputs(self) -> int:
        return self.up.shape[0]

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(self.down.shape[1:])

    def change(self, weight: Tensor, gate: float) -> Tensor:
        mixed = torch.einsum("oi...,ij,jk->ok...", weight, self.left.float(), self.right.float())
        return mixed + self._plain.delta()

    def added(self, layer: LayerPass) -> Tensor:
        assert layer.again is not None, "a second product with the weight is needed"
        x = layer.x.movedim(layer.axis, -1)
        mixed = (x @ self.right.T.to(x.dtype)) @ self.left.T.to(x.dtype)
        return layer.again(mixed.movedim(-1, layer.axis)) + self._plain.added(layer)

    @property
    def _plain(self) -> Factors:
        return Factors(self.down, self.up)


def _is_old(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the factors have the older layout's names, by their ranks.

    Those of a square layer fit either; its smaller size is the rank.
    """
    a1, a2, b1, b2 = (tensors[part].shape for part in _PARTS)
    old = b2[1] == b1[0] == a1[0] == a2[1]
    new = b2[0] == b1[1] == a1[1] == a2[0]
    return old and (not new or a2[0] >= a2[1])


def _named(tensors: Mapping[str, Tensor]) -> tuple[str, str, str, str]:
    """The parts that are left, right, up and down."""
    return ("a2", "a1", "b2", "b1") if _is_old(tensors) else ("a1", "a2", "b1", "b2")


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    _, _, up, down = _named(tensors)
    return (tensors[up].shape[0], *tensors[down].shape[1:])


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Glora:
    for part in _PARTS:
        key, tensor = parts[part]
        if tensor.ndim < 2 or not tensor.numel():
            raise misfit(key, tensor, layer)
    tensors = {part: parts[part][1] for part in _PARTS}
    if _is_old(tensors) and math.prod(layer.inputs[1:]) > 1:
        raise misfit(*parts["a2"], layer)
    names = _named(tensors)
    (left_key, left), (right_key, right), (up_key, up), (down_key, down) = map(
        parts.__getitem__, names
    )
    rank, n = down.shape[0], layer.inputs[0]
    for key, tensor, fit in (
        (left_key, left, left.shape[0] == n and not set(left.shape[2:]) - {1}),
        (right_key, right, right.shape[1] == n and not set(right.shape[2:]) - {1}),
        (up_key, up, up.shape[0] == layer.out and not set(up.shape[2:]) - {1}),
        (down_key, down, fits(down.shape[1:], layer.inputs)),
    ):
        if not fit:
            raise misfit(key, tensor, layer)
    for key, tensor, found in (
        (left_key, left, left.shape[1]),
        (right_key, right, right.shape[0]),
        (up_key, up, up.shape[1]),
    ):
        if found != rank:
            raise ranks_differ(key, tensor, down_key, down)
    return Glora(
        left.reshape(n, rank), right.reshape(rank, n), down.reshape(rank, *layer.inputs),
        up.reshape(layer.out, rank), scale_from(parts, rank, stated), layer.target.rows,
    )  # fmt: skip


KINDS.carry(
    AdapterKind(
        "GLoRA",
        {part: ending(rf"\.{part}\.weight") for part in _PARTS},
        forms=(frozenset(_PARTS),),
        made_of="the four factors of a GLoRA (a1, a2, b1, b2)",
        shape=_shape,
        update=_update,
    )
)
