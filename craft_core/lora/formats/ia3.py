"""IA3: outputs or inputs scaled channel by channel (Liu et al. 2022, arXiv:2205.05638), as LyCORIS
writes it.

    W' = diag(1 + w) W,  or with on_input  W' = W diag(1 + w)

The bias stays as it is. On the inputs this costs a second product with the weight. There is no
alpha; a strength s makes it 1 + s w. The host's loader has no such kind and leaves these layers
out, so what acts here is LyCORIS' own forward pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...types import LayerPass
from ..peft_config import Stated
from .kinds import KINDS, AdapterKind, ending
from .on_weight import OnWeight
from .parts import AdaptedLayer, Parts, misfit


@dataclass(frozen=True)
class Channels(OnWeight):
    """factor: w, (out,), or (n,) on the inputs. shape: of the covered weight, (out, n, *kernel)."""

    kind: ClassVar[str] = "IA3"

    factor: Tensor
    on_input: bool
    shape: tuple[int, ...]
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def outputs(self) -> int:
        return self.shape[0]

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.shape[1:]

    def change(self, weight: Tensor, gate: float) -> Tensor:
        along = [1] * weight.ndim
        along[1 if self.on_input else 0] = -1
        return weight * self.factor.float().reshape(along)

    def added(self, layer: LayerPass) -> Tensor:
        if not self.on_input:
            return layer.along(self.factor) * layer.unbiased
        assert layer.again is not None, "a second product with the weight is needed"
        return layer.again(layer.along(self.factor) * layer.x)


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The outputs are all that they tell; on the inputs, not even those."""
    return () if tensors["on_input"].any() else (tensors["channels"].numel(),)


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Channels:
    (key, factor), (_, on_input) = parts["channels"], parts["on_input"]
    scales_inputs = bool(on_input.any())
    channels = layer.inputs[:1] if scales_inputs else (layer.out,)
    if (factor.numel(),) != channels:
        raise misfit(key, factor, layer)
    return Channels(
        factor.flatten(), scales_inputs, (layer.out, *layer.inputs), 1.0, layer.target.rows
    )


KINDS.carry(
    AdapterKind(
        "IA3",
        {  # "weight" ends many keys; LyCORIS' stems have no dots
            "channels": re.compile(r"\A(?:lora|lycoris)_[^.]*(\.weight)\Z"),
            "on_input": ending(r"\.on_input"),
        },
        forms=(frozenset({"channels", "on_input"}),),
        made_of="the factors of an IA3 (weight, on_input)",
        shape=_shape,
        update=_update,
        axes=1,
    )
)
