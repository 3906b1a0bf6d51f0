"""Updates of a part of a layer's inputs, with its outputs in another order, or of several layers.

A target says where in a layer an update belongs (types.LayerTarget). Low-rank factors are put
there once and stay plain factors: zeros in `down` for inputs that are not covered, the rows of
`up` in the layer's order. A LoHa and a LoCon with a core have their rows put in order, too. Any
other update, and these of a part of the inputs, keeps its own algebra: it is given its part of the
inputs, and what it adds is reordered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CraftError
from ..types import Factors, LayerPass, LayerTarget, LayerUpdate
from .formats.difference import Difference
from .formats.dora import Dora
from .formats.loha import Hadamard
from .formats.lora import Tucker

Runs = tuple[tuple[int, int], ...]


def placed(update: LayerUpdate, target: LayerTarget, shape: tuple[int, ...]) -> LayerUpdate:
    """The update where the target says. shape: of the whole weight, (out, n, *kernel).

    Raises CraftError for an update that depends on the weight, where that cannot be divided or
    reordered with it.
    """
    if target.order is None and target.columns is None:
        return update
    columns = (target.columns[0], shape[1]) if target.columns and update.inputs else None
    if isinstance(update, Factors):
        return _placed_factors(update, target.order, columns)
    if isinstance(update, Difference):
        whole = _widened(update.difference, columns) if columns else update.difference
        return replace(update, difference=_ordered(whole, target.order, 0))
    if columns is None and isinstance(update, Tucker):
        return replace(update, up=_ordered(update.up, target.order, 0))
    if columns is None and isinstance(update, Hadamard):
        return _placed_hadamard(update, target.order)
    if isinstance(update, Dora) and columns is None and not (update.axis and target.of):
        return _placed_dora(update, target, shape)
    if update.on_weight:
        raise CraftError(
            f"{target.module} is a part of the layer that the file changes, or has its outputs in "
            "another order",
            "What changes the weight it finds cannot be divided or reordered",
            "Use a LoRA of another kind, or one trained on this model's own layers",
        )
    inner = replace(update, scale=1.0, rows=None)
    return Placed(inner, target.order, columns, update.scale, update.rows)


@dataclass(frozen=True)
class Placed(LayerUpdate):
    """Another update, of scale 1, at its place in the layer.

    order: as in LayerTarget. columns: (where its inputs start, how many the layer has).
    """

    inner: LayerUpdate
    order: Runs | None
    columns: tuple[int, int] | None
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def of_bias(self) -> bool:
        return self.inner.of_bias

    @property
    def precise(self) -> tuple[str, ...]:
        return self.inner.precise

    @property
    def rank(self) -> int:
        return self.inner.rank

    @property
    def outputs(self) -> int:
        if self.order is None:
            return self.inner.outputs
        return sum(length for _, length in self.order)

    @property
    def inputs(self) -> tuple[int, ...]:
        if self.columns is None:
            return self.inner.inputs
        return (self.columns[1], *self.inner.inputs[1:])

    @property
    def is_low_rank(self) -> bool:
        return self.inner.is_low_rank

    def delta(self) -> Tensor:
        delta = _ordered(self.inner.delta(), self.order, 0)
        return self.scale * (_widened(delta, self.columns) if self.columns else delta)

    def added(self, layer: LayerPass) -> Tensor:
        axis = layer.axis if layer.axis < 0 else layer.axis - layer.base.ndim
        if self.columns is not None:
            x = layer.x.narrow(layer.axis, self.columns[0], self.inner.inputs[0])
            layer = replace(layer, x=x)
        return _ordered(self.inner.added(layer), self.order, axis)

    def factors(self) -> Factors:
        found = _placed_factors(self.inner.factors(), self.order, self.columns)
        return replace(found, scale=found.scale * self.scale, rows=self.rows)

    def entries(self) -> Factors:
        if self.columns is not None or self.outputs < self.inner.outputs:
            return self.factors()
        found = self.inner.entries()
        return replace(found, scale=found.scale * self.scale)

    def tensors(self) -> dict[str, Tensor]:
        return self.inner.tensors()

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Placed:
        return replace(self, inner=self.inner.with_tensors(tensors))


def _placed_hadamard(update: Hadamard, order: Runs | None) -> Hadamard:
    up1, up2 = (
        _ordered(up, order, 0 if core is None else 1)
        for up, core in ((update.up1, update.core1), (update.up2, update.core2))
    )
    return replace(update, up1=up1, up2=up2)


def _placed_dora(update: Dora, target: LayerTarget, shape: tuple[int, ...]) -> Dora:
    """Magnitudes go with their outputs. Those of a dora_scale in another order do not, as in the
    host, which reorders dW alone."""
    magnitude = update.magnitude
    if update.axis == 0 and (target.of or update.of_sum):
        magnitude = _ordered(magnitude, target.order, 0)
    return replace(update, inner=placed(update.inner, target, shape), magnitude=magnitude)


def runs_of(order: Tensor) -> Runs | None:
    """A permutation (out,) as runs of consecutive numbers; None if it is none."""
    numbers = order.tolist()
    if sorted(numbers) != list(range(len(numbers))):
        return None
    runs: list[tuple[int, int]] = []
    for number in map(int, numbers):
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return tuple(runs)


def _placed_factors(
    factors: Factors, order: Runs | None, columns: tuple[int, int] | None
) -> Factors:
    down = _widened(factors.down, columns) if columns else factors.down
    return replace(factors, down=down, up=_ordered(factors.up, order, 0))


def _ordered(tensor: Tensor, order: Runs | None, axis: int) -> Tensor:
    if order is None:
        return tensor
    return torch.cat([tensor.narrow(axis, *run) for run in order], axis)


def _widened(tensor: Tensor, columns: tuple[int, int]) -> Tensor:
    """(m, part of n, *kernel) -> (m, n, *kernel), zeros elsewhere."""
    start, inputs = columns
    wide = tensor.new_zeros(tensor.shape[0], inputs, *tensor.shape[2:])
    wide[:, start : start + tensor.shape[1]] = tensor
    return wide
