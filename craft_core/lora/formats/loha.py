"""LoHa: dW = scale * (a1 b1) * (a2 b2), elementwise (Hyeon-Woo et al. 2022, arXiv:2108.06098).

That is the product of all column pairs of a1, a2 with all row pairs of b1, b2, of rank r1 r2. Its
scale is alpha / r1, as LyCORIS writes it.

An update holds the file's own tensors. For a pass it makes of them what takes fewer
multiplications: the r1 r2 pairs as low-rank factors, or dW itself, a few rows at a time. Both are
made in the type of the inputs: the pairs are rounded once, as they would be from float32; of dW
each side is rounded before their product is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...types import Factors, LayerPass, LayerUpdate, times
from ..factors import beside_identity, wide
from ..peft_config import Stated
from .kinds import KINDS, AdapterKind, ending
from .parts import AdaptedLayer, Parts, check_made, fits, misfit, ranks_differ, scale_from

_FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_CORES = ("hada_t1", "hada_t2")
_PIECES = (
    4  # in which dW is made, one after another: two sides of one are half as much as all of it
)

_Side = tuple[Tensor, Tensor]  # up (out, r), down (r, n * kernel)


@dataclass(frozen=True)
class Hadamard(LayerUpdate):
    """dW = scale * (up1 down1) * (up2 down2), entry by entry. layer_inputs: (n, *kernel).

    up: (out, r). down: (r, n * kernel). Of a side with a Tucker core (r, r, *kernel), as the file
    has them: up (r, out), down (r, n).
    """

    up1: Tensor
    down1: Tensor
    up2: Tensor
    down2: Tensor
    layer_inputs: tuple[int, ...]
    core1: Tensor | None = None
    core2: Tensor | None = None
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def outputs(self) -> int:
        return self.up1.shape[0 if self.core1 is None else 1]

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.layer_inputs

    @property
    def rank(self) -> int:
        return min(self._pairs, self.outputs, self._size)

    @property
    def is_low_rank(self) -> bool:
        """Also where that rank is full: files and merges take what factors there are."""
        return True

    @property
    def _pairs(self) -> int:
        return self.down1.shape[0] * self.down2.shape[0]

    @property
    def _size(self) -> int:
        return math.prod(self.layer_inputs)

    @property
    def _pairs_are_fewer(self) -> bool:
        """Whether the pairs are no more numbers than dW: so many multiplications either takes."""
        return self._pairs * (self.outputs + self._size) <= self.outputs * self._size

    def delta(self) -> Tensor:
        (up1, down1), (up2, down2) = self._sides()
        product = (up1.float() @ down1.float()) * (up2.float() @ down2.float())
        return (self.scale * product).reshape(self.outputs, *self.layer_inputs)

    def added(self, layer: LayerPass) -> Tensor:
        if self._pairs_are_fewer:
            return self._in_pairs(layer.x.dtype).added(layer)
        pieces = self._in_pieces(layer.x.dtype)
        return torch.cat([layer.product(layer.x, piece) for _, piece in pieces], dim=layer.axis)

    def act(self, layer: LayerPass, amount: float | Tensor) -> None:
        if self._pairs_are_fewer:
            return self._in_pairs(layer.x.dtype).act(layer, amount)
        x, alpha = times(layer.x, amount)
        together = len(self.layer_inputs) == 1 and layer.base.is_contiguous()
        for start, piece in self._in_pieces(x.dtype):
            if together:  # the product goes into the outputs at once
                base = layer.base.view(-1, self.outputs).narrow(1, start, len(piece))
                base.addmm_(x.reshape(-1, self._size), piece.T, alpha=alpha)
            else:
                base = layer.base.narrow(layer.axis, start, len(piece))
                base.add_(layer.product(x, piece), alpha=alpha)

    def with_outputs_times(self, factor: Tensor) -> Hadamard:
        along = factor[:, None] if self.core1 is None else factor
        return replace(self, up1=along * self.up1)

    def factors(self) -> Factors:
        """Not more than min(out, n * kernel) ranks: beyond them the product itself is smaller."""
        if self._pairs <= min(self.outputs, self._size):
            return replace(self._in_pairs(), scale=self.scale, rows=self.rows)
        (up1, down1), (up2, down2) = self._sides()
        product = ((up1 @ down1) * (up2 @ down2)).reshape(-1, *self.layer_inputs)
        return beside_identity(product, self.scale, self.rows)

    def entries(self) -> Factors:
        return self.factors()

    def _in_pairs(self, dtype: torch.dtype | None = None) -> Factors:
        """At a scale of 1: up (out, r1 r2), down (r1 r2, n, *kernel); in float32 at least where
        no dtype is given."""
        (up1, down1), (up2, down2) = self._sides(dtype)
        up = (up1[:, :, None] * up2[:, None, :]).flatten(1)
        down = (down1[:, None, :] * down2[None, :, :]).flatten(0, 1)
        return Factors(down.reshape(-1, *self.layer_inputs), up)

    def _in_pieces(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """(where its outputs start, rows of dW at a scale of 1), one piece after another."""
        (up1, down1), (up2, down2) = self._sides(dtype)
        step = -(-self.outputs // _PIECES)
        for start in range(0, self.outputs, step):
            piece = up1[start : start + step] @ down1
            piece *= up2[start : start + step] @ down2
            yield start, piece.reshape(-1, *self.layer_inputs)

    def _sides(self, dtype: torch.dtype | None = None) -> tuple[_Side, _Side]:
        """In that dtype, or in float32 at least; a core is folded in float32."""
        first = _side(self.up1, self.down1, self.core1, dtype)
        return first, _side(self.up2, self.down2, self.core2, dtype)


def _side(up: Tensor, down: Tensor, core: Tensor | None, dtype: torch.dtype | None) -> _Side:
    if core is not None:
        up, down = up.T, _folded(core, down)
    return (wide(up), wide(down)) if dtype is None else (up.to(dtype), down.to(dtype))


def _folded(core: Tensor, down: Tensor) -> Tensor:
    """(r, r, *kernel) and (r, n) -> (r, n * kernel), in float32 at least."""
    return torch.einsum("ij...,jn->in...", wide(core), wide(down)).flatten(1)


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    a, b = tensors["hada_w1_a"], tensors["hada_w1_b"]
    if "hada_t1" in tensors:
        return (a.shape[1], b.shape[1], *tensors["hada_t1"].shape[2:])
    return (a.shape[0], b.shape[1])


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Hadamard:
    up1, down1, core1 = _held(parts, "1", layer)
    up2, down2, core2 = _held(parts, "2", layer)
    scale = scale_from(parts, parts["hada_w1_b"][1].shape[0], stated)
    made = Hadamard(
        up1, down1, up2, down2, layer.inputs, core1, core2, scale, layer.target.rows
    )  # fmt: skip
    smaller, larger = sorted((layer.out, math.prod(layer.inputs)))
    factors = made.rank * (smaller + larger)  # beside an identity, too
    check_made(factors, *parts.values(), kernel=math.prod(layer.inputs[1:]))
    return made


def _held(parts: Parts, number: str, layer: AdaptedLayer) -> tuple[Tensor, Tensor, Tensor | None]:
    """Up, down and core of one of the two products, as an update holds them: a core is folded into
    down where that has no more numbers."""
    (a_key, a), (b_key, b) = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
    for key, tensor in ((a_key, a), (b_key, b)):
        if tensor.ndim != 2 or not tensor.numel():
            raise misfit(key, tensor, layer)
    if f"hada_t{number}" not in parts:
        if a.shape[0] != layer.out:
            raise misfit(a_key, a, layer)
        if not fits(b.shape[1:], layer.inputs):
            raise misfit(b_key, b, layer)
        if a.shape[1] != b.shape[0]:
            raise ranks_differ(b_key, b, a_key, a)
        return a, b, None
    core_key, core = parts[f"hada_t{number}"]
    if core.ndim < 3 or tuple(core.shape[:2]) != (a.shape[0], b.shape[0]):
        raise ranks_differ(core_key, core, b_key, b)
    if not fits((b.shape[1], *core.shape[2:]), layer.inputs):
        raise misfit(core_key, core, layer)
    made = len(core) * math.prod((b.shape[1], *core.shape[2:]))
    check_made(made, (core_key, core), (b_key, b), (a_key, a))
    if a.shape[1] != layer.out:
        raise misfit(a_key, a, layer)
    if made <= core.numel() + b.numel():
        return a.T, _folded(core, b), None
    return a, b, core


KINDS.carry(
    AdapterKind(
        "LoHa",
        {part: ending(rf"\.{part}") for part in (*_FACTORS, *_CORES)},
        forms=(frozenset(_FACTORS), frozenset((*_FACTORS, *_CORES))),
        made_of="the four factors of a LoHa (w1_a, w1_b, w2_a, w2_b, with or without t1 and t2)",
        shape=_shape,
        update=_update,
    )
)
