"""DoRA: a magnitude times a direction (Liu et al. 2024, arXiv:2402.09353, Eq. 5) over another kind.

    W' = m (W + dW) / |W + dW|     norms over each output, or over each input (LyCORIS wd_on_out)

A file says which by the shape of m. On the output axis this is a factor f for each channel,

    W' x = f (W x + dW x),   f = m / norm

and the norms are taken once, when a sampling run begins, from the weight as it is then. On the
input axis f stands before the weight, which costs a second product with it. A strength s scales the
difference, W + s (W' - W), as in the host.

Deliberate departure, the host's: of a `dora_scale` on the output axis the norm is that of W alone,
not of W + dW, so that a file looks as it does in the host's LoraLoader. `lora_magnitude_vector` is
PEFT's, which the host does not read, and means the paper's norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ...types import LayerPass, LayerUpdate
from ..peft_config import Stated
from .kinds import KINDS, AdapterKind, ending
from .on_weight import OnWeight, channel_norms
from .parts import AdaptedLayer, Parts, misfit

_INNER = "inner_"
_PARTS = ("dora_scale", "magnitude")


@dataclass(frozen=True)
class Dora(OnWeight):
    """inner: dW, of all covered outputs. magnitude: (out,), or (n,) for axis 1. axis: of the weight
    whose channels have a norm each. of_sum: whether the norm on axis 0 is that of W + dW, and not
    of W. factor: f, where it is known (`taken`)."""

    kind: ClassVar[str] = "DoRA"
    precise: ClassVar[tuple[str, ...]] = ("magnitude", "factor")

    inner: LayerUpdate
    magnitude: Tensor
    axis: int
    of_sum: bool
    factor: Tensor | None = None
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def outputs(self) -> int:
        return self.inner.outputs

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.inner.inputs

    def change(self, weight: Tensor, gate: float) -> Tensor:
        total = weight + self.inner.delta()
        factor = self._factor(weight, total)
        shape = [1] * weight.ndim
        shape[self.axis] = -1
        return total * factor.reshape(shape) - weight

    def taken(self, weight: Callable[[], Tensor]) -> Mapping[str, Tensor]:
        covered = weight()
        if self.rows:
            covered = covered.narrow(0, *self.rows)
        needs_sum = self.axis == 1 or self.of_sum
        total = covered + self.inner.delta() if needs_sum else covered
        return {"factor": self._factor(covered, total)}

    def added(self, layer: LayerPass) -> Tensor:
        assert self.factor is not None, "the norms come before the first pass"
        factor = layer.along(self.factor)
        if self.axis == 0:
            inner = self.inner.scale * self.inner.added(layer)
            return (factor - 1) * layer.unbiased + factor * inner
        assert layer.again is not None, "a second product with the weight is needed"
        scaled = (factor * layer.x).to(layer.x.dtype)
        whole = layer.again(scaled)
        inner = self.inner.scale * self.inner.added(replace(layer, x=scaled, base=whole, bias=None))
        return whole + inner - layer.unbiased

    def act(self, layer: LayerPass, amount: float) -> None:
        """On the output axis without a copy of the outputs: with a = amount, z = y - bias,

        y + a ((f - 1) z + f dW x) = (1 + a (f - 1)) y - a (f - 1) bias + a f dW x
        """
        if self.axis != 0:
            return super().act(layer, amount)
        assert self.factor is not None, "the norms come before the first pass"
        change = amount * (self.factor - 1)
        layer.base.mul_(layer.along(1 + change))
        if layer.bias is not None:
            layer.base.sub_(layer.along(change * layer.bias))
        amount *= self.inner.scale
        inner = self.inner.with_outputs_times(self.factor)
        if inner is not None:
            inner.act(layer, amount)
        else:
            layer.base.add_(layer.along(self.factor) * self.inner.added(layer), alpha=amount)

    def tensors(self) -> dict[str, Tensor]:
        inner = {f"{_INNER}{name}": value for name, value in self.inner.tensors().items()}
        return super().tensors() | inner

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Dora:
        inner = {k.removeprefix(_INNER): t for k, t in tensors.items() if k.startswith(_INNER)}
        own = {key: tensor for key, tensor in tensors.items() if not key.startswith(_INNER)}
        return replace(self, inner=self.inner.with_tensors(inner), **own)

    def _factor(self, weight: Tensor, total: Tensor) -> Tensor:
        host_rule = self.axis == 0 and not self.of_sum
        return self.magnitude.float() / channel_norms(weight if host_rule else total, self.axis)


def _inner(parts: Mapping[str, object]) -> dict[str, object]:
    return {part: value for part, value in parts.items() if part not in _PARTS}


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    inner = _inner(tensors)
    return KINDS.of(inner)[0].shape(inner)


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Dora:
    own = next(part for part in _PARTS if part in parts)
    key, magnitude = parts[own]
    inner_parts = _inner(parts)
    inner = KINDS.of(inner_parts)[0].update(inner_parts, layer, stated)
    if not layer.inputs:
        raise misfit(key, magnitude, layer)
    axis = _axis(key, magnitude, layer) if own == "dora_scale" else 0
    if magnitude.numel() != (layer.out, layer.inputs[0])[axis]:
        raise misfit(key, magnitude, layer)
    return Dora(
        replace(inner, rows=None), magnitude.flatten(), axis, own == "magnitude", None, 1.0,
        layer.target.rows,
    )  # fmt: skip


def _axis(key: str, magnitude: Tensor, layer: AdaptedLayer) -> int:
    """The host's rule: on the output axis where the first size is the number of outputs."""
    if magnitude.ndim and magnitude.shape[0] == layer.out:
        return 0
    if magnitude.ndim > 1 and tuple(magnitude.shape[:2]) == (1, layer.inputs[0]):
        return 1
    raise misfit(key, magnitude, layer)


KINDS.carry(
    AdapterKind(
        "DoRA",
        {
            "dora_scale": ending(r"\.dora_scale"),
            "magnitude": ending(r"\.lora_magnitude_vector(?:\.[^.]+)*"),
        },
        forms=[form | {part} for kind in KINDS if kind.axes > 1 for form in kind.forms
               for part in _PARTS],
        made_of="one of these with a magnitude (dora_scale, lora_magnitude_vector)",
        shape=_shape,
        update=_update,
        axes=1,
    )
)  # fmt: skip
