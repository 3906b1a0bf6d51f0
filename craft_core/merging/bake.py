"""Bake LoRAs into the factors of one file, a layer at a time.

bake_merge runs a weight merge; bake_gates freezes a run-time method at one moment: the sum over
branches of gate * dW, laid side by side, which is exact up to rounding to the file's type. Nothing
dense outlives its layer. A layer's bias is baked after its weight, by the same method, as what it
is: a vector.

An update whose dW depends on the weight it meets needs the model's: a merge takes each LoRA as it
is on the model alone; a run-time method takes them one after another, as they act there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import CraftError
from ..lora.factors import combine, rounded
from ..registry import Method
from ..time import Moment
from ..types import Bank, Branch, Factors, Gates, LayerShapes, LayerUpdate
from .methods import Updates
from .truncate import delta_norm, distance, truncate

_Kind = TypeVar("_Kind", bound=LayerUpdate)


@dataclass(frozen=True)
class Writing:
    """How the result is stored. rank: 0 for as many as the method needs. dtype: of the stored
    numbers. device: where layers are computed, one after the other. weights: module path -> the
    model's weight in float32, where there is a model."""

    rank: int = 0
    dtype: torch.dtype = torch.float32
    device: Any = "cpu"
    weights: Callable[[str], Tensor] | None = None


@dataclass(frozen=True)
class Baked:
    """One layer of the result. size: |dW| (Frobenius) as the method gave it. error: how far the
    stored factors are from that, |dW - stored|, cut and rounding to the file's type together.
    of_bias: whether it is that of the layer's bias."""

    path: str
    factors: Factors
    size: float
    error: float
    of_bias: bool = False


@dataclass(frozen=True)
class Totals:
    """Errors relative to |dW|, over the whole file and in its worst layer; the largest rank."""

    layers: int
    rank: int
    error: float
    worst: float
    worst_layer: str

    def __str__(self) -> str:
        if not self.layers:
            return "no layer, the text encoder alone"
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        summary = f"{layers}, rank up to {self.rank}; relative error {self.error:.2e}"
        if self.worst == 0.0:
            return summary
        return f"{summary}, at most {self.worst:.2e} in a layer ({self.worst_layer})"


def bake_merge(
    branches: Sequence[Branch],
    layers: LayerShapes,
    method: Method,
    knobs: Mapping[str, Any],
    writing: Writing,
) -> Iterator[Baked | None]:
    """The merge of every adapted layer in the order of `layers`; None where nothing remains of its
    weight. What remains of its bias follows.

    layers: shapes of at least the adapted layers. Raises CraftError for a rank of 0 with a method
    or a LoRA that has no exact low-rank form.
    """
    require_rank(method, writing.rank)
    bank = Bank.of(branches, list(layers))
    for path in bank.layers:
        having = [branch for branch in branches if path in branch.layers]
        _require_low_rank(path, [b for b in having if b.strength], writing)

        def merged(of_bias: bool, path: str = path, having: Sequence[Branch] = having):
            own = [
                (b, [_alone(one, path, b.strength, writing) for one in b.layers[path]
                     if one.of_bias == of_bias])
                for b in having
            ]  # fmt: skip
            one_each = [combine(updates, layers[path][0]) for _, updates in own if updates]
            updates = Updates.of(path, one_each, [b.strength for b, updates in own if updates])
            return method.function(updates, **knobs) if updates.factors else None

        yield from _both(path, merged, layers, writing)


def bake_gates(
    bank: Bank, gates: Gates, moment: Moment, layers: LayerShapes, writing: Writing
) -> Iterator[Baked | None]:
    """A run-time method at one moment, in the bank's order; None for a layer that is off, or whose
    weight is left as it is. What is done to its bias follows.

    gates: with the strengths in them (fusion.compose). Raises CraftError for a method that
    averages several predictions, as no weights do that, and for a rank of 0 with a LoRA that has
    no exact low-rank form.
    """
    if gates.views != 1:
        raise CraftError(
            f"This method averages the predictions of {gates.views} models",
            "A file holds one set of weights, and no weights give the mean of predictions",
            "Use it in the Router, or choose another method for a file",
        )
    share = gates.share(moment)
    for path, row in zip(bank.layers, gates.at(moment)[0].tolist(), strict=True):
        acting_here = [b for b, gate in zip(bank.branches, row, strict=True) if gate]
        _require_low_rank(path, [b for b in acting_here if path in b.layers], writing)

        def summed(of_bias: bool, path: str = path, row: Sequence[float] = row):
            parts = [
                (_moved(one.settled(share), writing), gate)
                for branch, gate in zip(bank.branches, row, strict=True)
                for one in (branch.layers.get(path, ()) if gate else ())
                if one.of_bias == of_bias
            ]
            if any(one.on_weight for one, _ in parts):
                return _in_turn(parts, path, writing)
            weighted = [replace(one, scale=one.scale * gate) for one, gate in parts]
            return combine(weighted, layers[path][0]) if parts else None

        yield from _both(path, summed, layers, writing)


def _both(
    path: str,
    made: Callable[[bool], Tensor | Factors | None],
    layers: LayerShapes,
    writing: Writing,
) -> Iterator[Baked | None]:
    """The layer's weight, or None; then its bias, where there is something. made: by of_bias."""
    for of_bias in (False, True):
        update = made(of_bias)
        inputs = () if of_bias else tuple(layers[path][1:])
        found = None if update is None else _stored(path, update, inputs, writing)
        if not of_bias or found is not None:
            yield found and replace(found, of_bias=of_bias)


def acting(bank: Bank, gates: Gates, moment: Moment) -> tuple[int, ...]:
    """Per branch, in how many of the layers it adapts it acts at a moment, in any view."""
    at_work = (gates.at(moment) != 0).any(dim=0).tolist()  # (layers, branches)
    return tuple(
        sum(row[j] and path in branch.layers
            for path, row in zip(bank.layers, at_work, strict=True))
        for j, branch in enumerate(bank.branches)
    )  # fmt: skip


def require_rank(method: Method, rank: int) -> None:
    """CraftError if the method's result has full rank and no rank was given to cut it to."""
    if rank == 0 and not method.traits.exact:
        raise CraftError(
            f"rank = 0 with {method.label}",
            f"The result of {method.label} has full rank: a LoRA file needs a rank to cut it to",
            "Set a rank, for example the sum of the LoRAs' ranks",
        )


def totals(baked: Iterable[Baked], *, may_be_none: bool = False) -> Totals:
    """CraftError if nothing remains, unless it may be so."""
    found = list(baked)
    if not found and may_be_none:
        return Totals(0, 0, 0.0, 0.0, "")
    if not found:
        raise CraftError(
            "The result changes no layer",
            "A file needs a layer in which at least one LoRA acts",
            "Check the strengths, the layer sets and the method's settings",
        )
    whole = math.fsum(one.size**2 for one in found) ** 0.5
    error = math.fsum(one.error**2 for one in found) ** 0.5
    worst = max(found, key=lambda one: one.error / one.size)
    return Totals(
        len({one.path for one in found}), max(one.factors.rank for one in found), error / whole,
        worst.error / worst.size, worst.path,
    )  # fmt: skip


def _stored(
    path: str, update: Tensor | Factors, inputs: tuple[int, ...], writing: Writing
) -> Baked | None:
    """The update as the file will hold it; None for an update of zeros. A vector is never cut."""
    whole = delta_norm(update)
    if whole == 0.0:
        return None
    if isinstance(update, Factors) and (
        not inputs or not writing.rank or update.rank <= writing.rank
    ):
        factors = update
    else:
        factors = truncate(update, writing.rank, inputs)
    stored = rounded(factors, path, writing.dtype)
    return Baked(path, stored.mapped(Tensor.cpu), whole, distance(update, stored))


def _require_low_rank(path: str, branches: Sequence[Branch], writing: Writing) -> None:
    """CraftError if no rank was given and a branch's update of the layer has no low-rank form."""
    full = [b.name for b in branches if not all(one.is_low_rank for one in b.layers[path])]
    if full and writing.rank == 0:
        raise CraftError(
            f"rank = 0, and the update of {path} in {' and '.join(full)} has full rank",
            "An update of full rank is not smaller as factors: a LoRA file needs a rank to cut it "
            "to, and the report says what that loses",
            "Set a rank, for example 64",
        )


def _alone(update: LayerUpdate, path: str, gate: float, writing: Writing) -> LayerUpdate:
    """The update as it is on the model's own weight."""
    update = _moved(update, writing)
    if not update.on_weight or writing.weights is None:
        return update
    return update.on(writing.weights(path).to(writing.device), gate)


def _in_turn(
    updates: Sequence[tuple[LayerUpdate, float]], path: str, writing: Writing
) -> Tensor | Factors:
    """What (update, gate) make of the model's weight one after another, less that weight."""
    if writing.weights is None:
        return combine([one for one, _ in updates])  # raises: there is no weight
    weight = writing.weights(path).to(writing.device)
    whole = torch.zeros_like(weight)
    for update, gate in updates:
        start, length = update.rows or (0, len(weight))
        change = gate * update.on(weight, gate).delta()
        weight[start : start + length] += change
        whole[start : start + length] += change
    return whole.reshape(len(whole), -1)


def _moved(update: _Kind, writing: Writing) -> _Kind:
    return update.mapped(lambda tensor: tensor.to(writing.device))
