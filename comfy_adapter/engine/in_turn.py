"""Updates of one layer one after another, where one of them depends on the weight it meets.

    W_k = W_(k-1) + gate_k dW_k(W_(k-1))

as the host's loaders, one after another, patch a weight. Each update gets what the layer has made
of the inputs by then, and adds to it; no weight is touched. Some need their layer's outputs for
other inputs, too: the layer is then run once more, with the updates before theirs.

Of several Routers on one MODEL, and of LoRA loaders behind one, each acts in its place: the updates
of an earlier Router have acted when a later one's do, and what a loader behind it has patched into
the weight is taken out of the layer's work while its own act.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import comfy.lora
import torch
from torch import Tensor

from ...craft_core.lora.formats.difference import Difference
from ...craft_core.types import LayerPass, LayerUpdate
from .modules import (
    PREFIX,
    act_in_groups,
    bias_now,
    in_groups,
    output_axis,
    project,
    reading_again,
    weight_now,
    weight_shape,
)

_NORMS_AT = {"lora": 4, "loha": 7, "lokr": 8}  # where the host's adapters have a DoRA's norms


class LayerPart(Protocol):
    """What acts in a layer: an update of a branch (BranchPart), or patches of its weight.

    update: without its numbers.
    """

    @property
    def update(self) -> LayerUpdate: ...

    def at(self, like: Tensor, share: float) -> LayerUpdate:
        """The update on `like`'s device and dtype. share: as in BranchPart.at."""


@dataclass(frozen=True)
class Acting:
    """A part of which something acts now. share: of what its method can take out of it, how much it
    loses."""

    part: LayerPart
    gate: float
    share: float = 0.0


class InTurn:
    """The updates of one layer, for one sampling run.

    What one takes of the weight is taken anew only where the gates of those before it have changed.
    after: what comes after them, and is in what the layer makes.
    """

    def __init__(self, after: Sequence[LayerPart] = ()) -> None:
        self.after = after
        self._taken: dict[LayerPart, tuple[tuple, Mapping[str, Tensor]]] = {}

    def add(
        self, module: Any, x: Tensor, y: Tensor, own: Sequence[Acting],
        before: Sequence[Acting] = (),
    ) -> None:  # fmt: skip
        """Add all of `own` to y, in place: what the layer made of x, with what acts before them."""
        weights = [one for one in own if not one.part.update.of_bias]
        if weights:
            earlier = [one for one in before if not one.part.update.of_bias]
            turn = _Turn(self, module, [*earlier, *weights])
            bias = _changed(bias_now(module, x), x, before)
            after = [one.at(x, 0.0) for one in self.after]
            turn.add(x, y, after, -1.0)
            turn.apply(x, y, len(earlier), len(turn.acting), bias)
            turn.add(x, y, after, 1.0)
        for one in own:
            if one.part.update.of_bias:
                update = one.part.at(x, one.share)
                layer = LayerPass(x, y, partial(project, module), output_axis(module))
                _add(layer.narrowed(update.rows), update, one.gate)

    def update(
        self, one: Acting, before: Sequence[Acting], x: Tensor, weight: Callable[[], Tensor]
    ) -> LayerUpdate:
        """An update with what it takes of the weight. before: what acts before it."""
        key, update = (one.share, *before), one.part.at(x, one.share)
        known, fields = self._taken.get(one.part, (None, {}))
        if known != key:
            fields = update.taken(weight)
            self._taken[one.part] = key, fields
        return replace(update, **fields)


class _Turn:
    """One pass of a run of rows. acting: what acts on the weight, in order."""

    def __init__(self, layer: InTurn, module: Any, acting: Sequence[Acting]) -> None:
        self.layer, self.module, self.acting = layer, module, acting
        self.product = partial(project, module)

    def apply(
        self, x: Tensor, y: Tensor, start: int, stop: int, bias: Tensor | None = None
    ) -> None:
        """Those from `start` to before `stop`, on what the layer and those before made of x; bias:
        in y already."""
        for index in range(start, stop):
            gate = self.acting[index].gate
            if in_groups(self.module):
                act_in_groups(self.module, x, y, self._whole(index, x), gate)
                continue
            update = self._update(index, x)
            layer = LayerPass(
                x, y, self.product, output_axis(self.module), bias, gate,
                partial(self._before, index),
            )  # fmt: skip
            _add(layer.narrowed(update.rows), update, gate)

    def add(self, x: Tensor, y: Tensor, updates: Sequence[LayerUpdate], sign: float) -> None:
        """Updates that depend on nothing, to y."""
        for update in updates:
            _add(LayerPass(x, y, self.product, output_axis(self.module)), update, sign)

    def _before(self, index: int, x: Tensor) -> Tensor:
        """What the layer and what acts before this one make of other inputs, without a bias."""
        with reading_again(self.module):
            y = self.module.forward(x)
        bias = bias_now(self.module, x)
        layer = LayerPass(x, y, self.product, output_axis(self.module), bias)
        y = layer.unbiased
        self.apply(x, y, 0, index)
        return y

    def _whole(self, index: int, x: Tensor) -> LayerUpdate:
        """The update with a dW of its own."""
        one = self.acting[index]
        return one.part.at(x, one.share).on(self._weight(index, x), one.gate)

    def _update(self, index: int, x: Tensor) -> LayerUpdate:
        weight = partial(self._weight, index, x)
        return self.layer.update(self.acting[index], self.acting[:index], x, weight)

    def _weight(self, index: int, x: Tensor) -> Tensor:
        """The layer's weight with what acts before this one, in float32."""
        weight = weight_now(self.module, x)
        for one in self.acting[:index]:
            update = one.part.at(x, one.share)
            start, length = update.rows or (0, len(weight))
            weight[start : start + length] += one.gate * update.on(weight, one.gate).delta()
        return weight


class WeightPatches:
    """The host's patches of one weight, from one place in their order to another, as a part.

    What they add is made anew for each pass: a matrix of the weight's size.
    """

    def __init__(self, patches: Sequence[tuple], key: str, shape: tuple[int, ...]) -> None:
        self._patches, self._key = list(patches), key
        self.update: LayerUpdate = Difference(torch.empty(shape, device="meta"))

    def at(self, like: Tensor, share: float) -> LayerUpdate:
        nothing = torch.zeros(self.update.difference.shape, device=like.device)
        added = comfy.lora.calculate_weight(self._patches, nothing, self._key)
        return Difference(added.to(like.dtype))


def patches_of(patcher: Any, path: str) -> Sequence[tuple]:
    """The host's patches of a layer's weight on a MODEL, in order."""
    return patcher.patches.get(f"{PREFIX}{path}.weight", ())


def between(patcher: Any, path: str, start: int, stop: int | None = None) -> WeightPatches | None:
    """The patches of a weight in these places; None where there are none, or where no one matrix
    says what they add."""
    patches = patches_of(patcher, path)[start:stop]
    if not patches or not all(adds(one) for one in patches):
        return None
    module = patcher.model.diffusion_model.get_submodule(path)
    shape = tuple(module.weight.shape) if module.weight.ndim == 1 else weight_shape(module)
    return WeightPatches(patches, f"{PREFIX}{path}.weight", shape)


def adds(patch: tuple) -> bool:
    """Whether a patch adds the same to a weight, whatever the weight is."""
    value, kept = patch[1], patch[2]
    if kept != 1.0:
        return False
    if isinstance(value, list | tuple):
        return isinstance(value, list) or len(value) == 1 or value[0] == "diff"
    at = _NORMS_AT.get(value.name)
    return at is not None and value.weights[at] is None


def _changed(bias: Tensor | None, x: Tensor, before: Sequence[Acting]) -> Tensor | None:
    """A layer's bias as updates before have changed it."""
    for one in before:
        if bias is not None and one.part.update.of_bias:
            update = one.part.at(x, one.share)
            start, length = update.rows or (0, len(bias))
            bias = bias.clone()
            bias[start : start + length] += (one.gate * update.delta()).to(bias.dtype)
    return bias


def _add(layer: LayerPass, update: LayerUpdate, gate: float) -> None:
    update.act(layer, gate * update.scale)
