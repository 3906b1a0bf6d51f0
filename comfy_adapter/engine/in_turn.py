"""Updates of one layer one after another, where one of them depends on the weight it meets.

    W_k = W_(k-1) + gate_k dW_k(W_(k-1))

as the host's loaders, one after another, patch a weight. Each update gets what the layer has made
of the inputs by then, and adds to it; no weight is touched. Some need their layer's outputs for
other inputs, too: the layer is then run once more, with the updates before theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ...craft_core.types import LayerPass, LayerUpdate
from .bank import BranchPart
from .modules import bias_now, output_axis, project, weight_now


class InTurn:
    """The updates of one layer, for one sampling run.

    What one takes of the weight is taken anew only where the gates of those before it have changed.
    """

    def __init__(self, parts: Sequence[BranchPart]) -> None:
        self.parts = [one for one in parts if not one.update.of_bias]
        self.of_bias = [one for one in parts if one.update.of_bias]
        self._taken: dict[BranchPart, tuple[tuple, Mapping[str, Tensor]]] = {}

    def add(
        self, module: Any, x: Tensor, y: Tensor, gates: Sequence[float], share: float = 0.0
    ) -> None:
        """Add all to y, what the layer made of x, in place. share: as in BranchPart.at."""
        turn = _Turn(self, module, [one for one in self.parts if gates[one.branch]], gates, share)
        turn.apply(x, y, len(turn.acting), bias_now(module, x) if turn.acting else None)
        for part in self.of_bias:
            gate = gates[part.branch]
            if gate:
                update = part.at(x, share)
                layer = LayerPass(x, y, partial(project, module), output_axis(module))
                _add(layer.narrowed(update.rows), update, gate)

    def update(
        self, part: BranchPart, before: Sequence[tuple], x: Tensor, share: float,
        weight: Callable[[], Tensor],
    ) -> LayerUpdate:  # fmt: skip
        """An update with what it takes of the weight. before: what acts before it, and how much."""
        key, update = (share, *before), part.at(x, share)
        known, fields = self._taken.get(part, (None, {}))
        if known != key:
            fields = update.taken(weight)
            self._taken[part] = key, fields
        return replace(update, **fields)


class _Turn:
    """One pass of a run of rows. acting: the updates whose gate is not zero, in order."""

    def __init__(
        self, layer: InTurn, module: Any, acting: Sequence[BranchPart], gates: Sequence[float],
        share: float,
    ) -> None:  # fmt: skip
        self.layer, self.module, self.acting, self.gates = layer, module, acting, gates
        self.share = share
        self.product = partial(project, module)

    def apply(self, x: Tensor, y: Tensor, count: int, bias: Tensor | None = None) -> None:
        """The first `count` updates, on what the layer made of x; bias: in y already."""
        for index in range(count):
            part = self.acting[index]
            gate = self.gates[part.branch]
            update = self._update(index, x)
            layer = LayerPass(
                x, y, self.product, output_axis(self.module), bias, gate,
                partial(self._before, index),
            )  # fmt: skip
            _add(layer.narrowed(update.rows), update, gate)

    def _before(self, index: int, x: Tensor) -> Tensor:
        """What the layer and the updates before this one make of other inputs, without a bias."""
        y = self.module.forward(x)
        bias = bias_now(self.module, x)
        layer = LayerPass(x, y, self.product, output_axis(self.module), bias)
        y = layer.unbiased
        self.apply(x, y, index)
        return y

    def _update(self, index: int, x: Tensor) -> LayerUpdate:
        before = [(one, self.gates[one.branch]) for one in self.acting[:index]]
        weight = partial(self._weight, index, x)
        return self.layer.update(self.acting[index], before, x, self.share, weight)

    def _weight(self, index: int, x: Tensor) -> Tensor:
        """The layer's weight with the updates before this one, in float32."""
        weight = weight_now(self.module, x)
        for part in self.acting[:index]:
            gate, update = self.gates[part.branch], part.at(x, self.share)
            start, length = update.rows or (0, len(weight))
            weight[start : start + length] += gate * update.on(weight, gate).delta()
        return weight


def _add(layer: LayerPass, update: LayerUpdate, gate: float) -> None:
    update.act(layer, gate * update.scale)
