"""Whole differences: dW as it is, of a weight (.diff, .w_norm) and of a bias (.diff_b, .b_norm).

The host's Extract and Save Lora writes them, LyCORIS' full and norm modules do, and PEFT writes a
bias of the up factor (lora_bias=True, scaled as its pair of factors is). A normalisation's weight
(n,) scales its normalised inputs, so its difference adds those inputs times dW. No alpha scales a
difference. A difference of zeros does nothing; storage.py leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ...types import Factors, LayerPass, LayerUpdate
from ..factors import beside_identity, wide
from ..peft_config import Stated
from .kinds import KINDS, AdapterKind, ending
from .parts import AdaptedLayer, Parts, fits, incomplete_pair, misfit, scale_from

_COLUMNS = 64  # of the matrix whose entries stand for those of a difference


@dataclass(frozen=True)
class Difference(LayerUpdate):
    """dW = scale * difference; difference: (out, n), (out, n, *kernel), or (n,) of a
    normalisation."""

    difference: Tensor
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def rank(self) -> int:
        return min(self.outputs, math.prod(self.inputs))

    @property
    def outputs(self) -> int:
        return self.difference.shape[0]

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(self.difference.shape[1:])

    @property
    def is_low_rank(self) -> bool:
        return self.rank == 1

    def delta(self) -> Tensor:
        return self.scale * self.difference.float()

    def added(self, layer: LayerPass) -> Tensor:
        return layer.product(layer.x, self.difference)

    def factors(self) -> Factors:
        dense = wide(self.difference)
        if self.inputs:
            return beside_identity(dense, self.scale, self.rows)
        return Factors(dense.new_ones(1), dense[:, None], self.scale, self.rows)

    def entries(self) -> Factors:
        """Its entries in rows of 64, the last filled up with zeros."""
        flat = wide(self.difference).flatten()
        rows = functional.pad(flat, (0, -len(flat) % _COLUMNS)).reshape(-1, _COLUMNS)
        identity = torch.eye(_COLUMNS, dtype=rows.dtype, device=rows.device)
        return Factors(identity, rows, self.scale)


@dataclass(frozen=True)
class BiasDifference(Difference):
    """A bias changed by scale * difference (out,)."""

    of_bias: ClassVar[bool] = True

    def added(self, layer: LayerPass) -> Tensor:
        return layer.along(self.difference)


def acts_by_parts(update: LayerUpdate) -> bool:
    """Whether it acts by more than one product, none with a weight of its layer's shape: in a
    convolution in groups then only its dW does the same."""
    return not (update.on_weight or isinstance(update, Difference))


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    return tuple(next(iter(tensors.values())).shape) or None


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Difference:
    key, difference = parts["diff"]
    shape = (layer.out, *layer.inputs)
    if not difference.ndim or difference.shape[0] != layer.out:
        raise misfit(key, difference, layer)
    if difference.shape != shape and not fits(difference.shape[1:], layer.inputs):
        raise misfit(key, difference, layer)
    return Difference(difference.reshape(shape), 1.0, layer.target.rows)


def _bias_update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> BiasDifference:
    key, difference = next(parts[part] for part in ("diff_b", "lora_bias") if part in parts)
    if tuple(difference.shape) != (layer.out,):
        raise misfit(key, difference, layer)
    scale = 1.0
    if "lora_bias" in parts:
        if "down" not in parts or not parts["down"][1].ndim:
            raise incomplete_pair(key)
        scale = scale_from(parts, parts["down"][1].shape[0], stated)
    return BiasDifference(difference, scale, layer.target.rows)


KINDS.carry(
    AdapterKind(
        "weight difference",
        {"diff": ending(r"\.diff|\.w_norm")},
        forms=(frozenset({"diff"}),),
        made_of="a weight difference (diff, w_norm)",
        shape=_shape,
        update=_update,
        axes=1,
    )
)
KINDS.carry(
    AdapterKind(
        "bias difference",
        {
            "diff_b": ending(r"\.diff_b|\.b_norm"),
            "lora_bias": ending(r"\.lora_B(?:\.[^.]+)?\.bias|\.lora_up\.bias"),
        },
        forms=(frozenset({"diff_b"}), frozenset({"lora_bias"})),
        made_of="a bias difference (diff_b, b_norm, or the bias of an up factor)",
        shape=_shape,
        update=_bias_update,
        axes=1,
        of_bias=True,
    )
)
