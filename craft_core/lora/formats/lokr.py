"""LoKr: dW = scale * kron(w1, w2) (LyCORIS, Yeh et al. 2023, arXiv:2309.14859, Sec. 3.2).

w1 (a, b) is small; w2 (c, d, *kernel) may be given as two factors up @ down, and for a convolution
with a Tucker core t2 between them. dW itself is never formed where the update runs: with the n =
b d inputs seen as b groups of d,

    y = w1 (x w2^T) = (w1 x) w2^T      group by group w2, and w1 across the groups

The scale is the host's: alpha / rank of the last pair of factors, w2's before w1's; where both
are given whole there is no rank, and alpha says nothing. What an update holds of either side, w1_a
and w1_b, w2's factors and its core, is folded where that is no more numbers; for a pass the rest is
folded anew, which is little beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ...types import Factors, LayerPass, LayerUpdate, times
from ..factors import beside_identity, unit_matrix, wide
from ..peft_config import Stated
from .kinds import KINDS, AdapterKind, ending
from .parts import AdaptedLayer, Parts, check_made, fits, misfit, ranks_differ, scale_from

_LEFT = ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
_RIGHT = (
    {"lokr_w2"},
    {"lokr_w2_a", "lokr_w2_b"},
    {"lokr_w2_a", "lokr_w2_b", "lokr_t2"},
)
_PARTS = sorted(set().union(*_LEFT, *_RIGHT))


@dataclass(frozen=True)
class Kronecker(LayerUpdate):
    """dW = scale * kron(mix, w2), w2 = up @ down, or down where up is None.

    mix: (a, b), or beside mix_up, (a, q), the other factor (q, b) of w1. down: (r, d, *kernel), or
    the whole w2 (c, d, *kernel). up: (c, r). Beside a Tucker core, (r, r, *kernel), down and up are
    as the file has them: (r, d), (r, c).
    """

    mix: Tensor
    down: Tensor
    up: Tensor | None = None
    scale: float = 1.0
    rows: tuple[int, int] | None = None
    mix_up: Tensor | None = None
    core: Tensor | None = None

    @property
    def outputs(self) -> int:
        return self._mixing[0] * self._block[0]

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self._mixing[1] * self._block[1], *self._block[2:])

    @property
    def rank(self) -> int:
        """The product of the two ranks."""
        out, *inputs = self._block
        rank = min(out, math.prod(inputs))
        return min(self._mixing) * (rank if self.up is None else min(rank, self.down.shape[0]))

    @property
    def _mixing(self) -> tuple[int, int]:
        """The sizes of w1."""
        return (self.mix if self.mix_up is None else self.mix_up).shape[0], self.mix.shape[1]

    @property
    def _block(self) -> tuple[int, ...]:
        """Those of w2: (c, d, *kernel)."""
        if self.up is None:
            return tuple(self.down.shape)
        if self.core is None:
            return (self.up.shape[0], *self.down.shape[1:])
        return (self.up.shape[1], self.down.shape[1], *self.core.shape[2:])

    def folded(self, dtype: torch.dtype | None = None) -> Kronecker:
        """The same without mix_up and core, and with w2 as a whole where its factors are no fewer
        numbers; what is made anew in that dtype, or in float32 at least."""
        mix, down, up = self.mix, self.down, self.up
        if self.mix_up is not None:
            mix = _in(wide(self.mix_up) @ wide(mix), dtype)
        if self.core is not None and up is not None:
            up, down = up.T, _in(_with_core(self.core, down), dtype)
        out, *inputs = self._block
        if up is not None and up.shape[1] >= min(out, math.prod(inputs)):
            up, down = None, _in(_product(up, down), dtype)
        if mix is self.mix and down is self.down:
            return self
        return Kronecker(mix, down, up, self.scale, self.rows)

    @property
    def is_low_rank(self) -> bool:
        return self.rank < min(self.outputs, math.prod(self.inputs))

    def delta(self) -> Tensor:
        one = self.folded()
        return self.scale * _kron(one.mix.float(), one._whole().float())

    def added(self, layer: LayerPass) -> Tensor:
        return self.folded(layer.x.dtype)._added(layer)

    def _added(self, layer: LayerPass) -> Tensor:
        is_convolution, groups = self.down.ndim > 2, self.mix.shape[1]
        mixes_first = self._mixes_first
        x = layer.x.unflatten(1 if is_convolution else -1, (groups, -1))
        x = self._mixed(x) if mixes_first else x  # (B, .., groups, d) or (B, groups, d, *spatial)
        if is_convolution:
            hidden = layer.product(x.flatten(0, 1), self.down).unflatten(0, x.shape[:2])
        else:
            hidden = layer.product(x, self.down)
        hidden = hidden if mixes_first else self._mixed(hidden)
        if self.up is not None:
            up = self.up.to(hidden.dtype)
            if is_convolution:
                hidden = (up @ hidden.flatten(3)).unflatten(3, hidden.shape[3:])
            else:
                hidden = hidden @ up.T
        return hidden.flatten(1, 2) if is_convolution else hidden.flatten(-2)

    def act(self, layer: LayerPass, amount: float | Tensor) -> None:
        """Of a linear layer with w2 as a whole, the last product goes into the outputs at once."""
        self.folded(layer.x.dtype)._act(layer, amount)

    def _act(self, layer: LayerPass, amount: float | Tensor) -> None:
        if self.up is not None or self.down.ndim > 2 or not layer.base.is_contiguous():
            return super().act(layer, amount)
        (a, b), (c, d) = self.mix.shape, self.down.shape
        if self._mixes_first:
            mixed = self._mixed(layer.x.reshape(-1, b, d)).flatten(0, 1)  # (.. a, d)
            mixed, alpha = times(mixed, amount)
            layer.base.view(-1, c).addmm_(mixed, self.down.to(mixed.dtype).T, alpha=alpha)
        else:
            hidden = layer.product(layer.x.reshape(-1, d), self.down).view(-1, b, c)
            mix, alpha = times(self.mix.to(hidden.dtype), amount)
            layer.base.view(-1, a, c).baddbmm_(mix.expand(len(hidden), a, b), hidden, alpha=alpha)

    @property
    def _mixes_first(self) -> bool:
        """Whether w1 before w2 takes fewer multiplications than w1 after it; a linear layer, whose
        last product is then the larger, also takes it first where they are as many."""
        if self.up is not None:
            return False
        (a, b), (c, d, *kernel) = self.mix.shape, self.down.shape
        before = a * d * (b + math.prod(kernel) * c)
        after = b * c * (math.prod(kernel) * d + a)
        return before < after or (before == after and not kernel)

    def _mixed(self, x: Tensor) -> Tensor:
        """The groups of x by w1: (B, .., b, m) -> (B, .., a, m), (B, b, m, *spatial) likewise."""
        mix = self.mix.to(x.dtype)
        if self.down.ndim > 2:
            return (mix @ x.flatten(2)).unflatten(2, x.shape[2:])
        return mix @ x

    def factors(self) -> Factors:
        """kron(w1, up down) = kron(w1, up) kron(1, down) = kron(1, up) kron(w1, down)."""
        made = self.folded()
        mix = wide(made.mix)
        a, b = mix.shape
        if not self.is_low_rank:
            dense = _kron(mix, made._whole())
            return beside_identity(dense, self.scale, self.rows)
        one = beside_identity(made._whole()) if made.up is None else made
        up, down = wide(one.up), wide(one.down)
        if a <= b:
            up, down = _kron(unit_matrix(a, up), up), _kron(mix, down)
        else:
            up, down = _kron(mix, up), _kron(unit_matrix(b, down), down)
        return Factors(down, up, self.scale, self.rows)

    def entries(self) -> Factors:
        """Every entry of w1 with every entry of w2: an outer product."""
        one = self.folded()
        return Factors(one._whole().flatten()[None], wide(one.mix).flatten()[:, None], self.scale)

    def _whole(self) -> Tensor:
        """w2, in float32 at least."""
        if self.up is None:
            return wide(self.down)
        return _product(self.up, self.down)


def _product(up: Tensor, down: Tensor) -> Tensor:
    """(c, r) and (r, d, *kernel) -> (c, d, *kernel), in float32 at least."""
    return (wide(up) @ wide(down).flatten(1)).unflatten(1, down.shape[1:])


def _with_core(core: Tensor, down: Tensor) -> Tensor:
    """(r, r, *kernel) and (r, d) -> (r, d, *kernel), in float32 at least."""
    return torch.einsum("ij...,jd->id...", wide(core), wide(down))


def _in(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None else tensor.to(dtype)


def _kron(left: Tensor, right: Tensor) -> Tensor:
    """left: (a, b), right: (c, d, *kernel) -> (a c, b d, *kernel)."""
    left = left.reshape(*left.shape, *[1] * (right.ndim - 2))
    return torch.kron(left.contiguous(), right.contiguous())


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    a, b = _sizes(tensors, "lokr_w1")
    c, d = _sizes(tensors, "lokr_w2")
    kernel = tensors.get("lokr_t2", tensors.get("lokr_w2", tensors.get("lokr_w2_b"))).shape[2:]
    return (a * c, b * d, *kernel)


def _sizes(tensors: Mapping[str, Tensor], side: str) -> tuple[int, int]:
    """(outputs, inputs) of one side of the product."""
    if side in tensors:
        return tensors[side].shape[0], tensors[side].shape[1]
    core = side == "lokr_w2" and "lokr_t2" in tensors
    return tensors[f"{side}_a"].shape[1 if core else 0], tensors[f"{side}_b"].shape[1]


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Kronecker:
    mix, mix_up = _left(parts, layer)
    a, b = len(mix if mix_up is None else mix_up), mix.shape[1]
    if layer.out % a or layer.inputs[0] % b:
        key = next(key for part, (key, _) in parts.items() if part.startswith("lokr_w1"))
        raise misfit(key, mix, layer)
    block = (layer.out // a, layer.inputs[0] // b, *layer.inputs[1:])  # (c, d, *kernel)
    up, down, core = _right(parts, layer, block)
    pairs = [part for part in ("lokr_w2_b", "lokr_w1_b") if part in parts]
    scale = scale_from(parts, parts[pairs[0]][1].shape[0], stated) if pairs else 1.0
    if mix_up is not None and a * b <= mix.numel() + mix_up.numel():
        mix, mix_up = wide(mix_up) @ wide(mix), None
    made = Kronecker(mix, down, up, scale, layer.target.rows, mix_up, core)
    return made


def _left(parts: Parts, layer: AdaptedLayer) -> tuple[Tensor, Tensor | None]:
    """w1 (a, b) and None, or its factors (q, b) and (a, q)."""
    if "lokr_w1" in parts:
        key, whole = parts["lokr_w1"]
        if not whole.numel() or whole.ndim < 2 or set(whole.shape[2:]) - {1}:
            raise misfit(key, whole, layer)
        return whole.reshape(whole.shape[:2]), None
    (a_key, a), (b_key, b) = parts["lokr_w1_a"], parts["lokr_w1_b"]
    _check_pair(a_key, a, b_key, b, layer)
    if layer.out % a.shape[0] or layer.inputs[0] % b.shape[1]:
        raise misfit(a_key, a, layer)
    check_made(a.shape[0] * b.shape[1], (a_key, a), (b_key, b))
    return b, a


def _right(
    parts: Parts, layer: AdaptedLayer, block: tuple[int, ...]
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Up, down and core of w2, as an update holds them."""
    if "lokr_w2" in parts:
        key, whole = parts["lokr_w2"]
        if whole.ndim < 2 or whole.shape[0] != block[0] or not fits(whole.shape[1:], block[1:]):
            raise misfit(key, whole, layer)
        return None, whole.reshape(block), None
    (up_key, up), (down_key, down) = parts["lokr_w2_a"], parts["lokr_w2_b"]
    out, size = block[0], math.prod(block[1:])
    if "lokr_t2" in parts:  # up is (r, c) then
        core_key, core = parts["lokr_t2"]
        if down.ndim != 2 or core.ndim < 2 or tuple(core.shape[:2]) != (up.shape[0], down.shape[0]):
            raise ranks_differ(core_key, core, down_key, down)
        if not fits((*down.shape[1:], *core.shape[2:]), block[1:]):
            raise misfit(core_key, core, layer)
        made = len(core) * size
        check_made(made, (core_key, core), (down_key, down), (up_key, up))
        if up.ndim != 2 or up.shape[1] != out:
            raise misfit(up_key, up, layer)
        if made > core.numel() + down.numel():
            return up, down, core.reshape(*core.shape[:2], *block[2:])
        up, down = up.T, _with_core(core, down)
    else:
        _check_pair(up_key, up, down_key, down, layer)
    if up.shape[0] != out:
        raise misfit(up_key, up, layer)
    if not fits(down.shape[1:], block[1:]):
        raise misfit(down_key, down, layer)
    down = down.reshape(down.shape[0], *block[1:])
    return (up, down, None) if len(down) < min(out, size) else (None, _product(up, down), None)


def _check_pair(a_key: str, a: Tensor, b_key: str, b: Tensor, layer: AdaptedLayer) -> None:
    for key, tensor in ((a_key, a), (b_key, b)):
        if tensor.ndim != 2 or not tensor.numel():
            raise misfit(key, tensor, layer)
    if a.shape[1] != b.shape[0]:
        raise ranks_differ(b_key, b, a_key, a)


KINDS.carry(
    AdapterKind(
        "LoKr",
        {part: ending(rf"\.{part}") for part in _PARTS},
        forms=[frozenset(left | right) for left, right in product(_LEFT, _RIGHT)],
        made_of="the two sides of a LoKr (w1 and w2, each whole or as _a and _b, w2 also with t2)",
        shape=_shape,
        update=_update,
    )
)
