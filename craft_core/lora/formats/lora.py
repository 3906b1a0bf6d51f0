"""LoRA and LoCon: dW = scale * up @ down (Hu et al. 2021, arXiv:2106.09685, Eq. 3).

- The two factors are taken as they are, fitted to the layer's weight shape.
- Tucker LoCon (lora_mid): dW = up . mid . down is up . (mid . down), so mid folds into down. Where
  that would be more numbers than both, as over a kernel, they act one after the other: down on
  the channels, mid with the kernel, up on the channels.

Known are the endings of kohya and LyCORIS (lora_down / lora_up / lora_mid), of diffusers before
PEFT (_lora.down, .lora.down, lora_linear_layer.down), and of PEFT (lora_A / lora_B, with or
without adapter name). PEFT's A is the down factor, B the up factor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...types import Factors, LayerPass, LayerUpdate, add_product
from ..factors import wide
from ..peft_config import Stated
from .kinds import KINDS, AdapterKind, ending
from .parts import AdaptedLayer, Parts, check_made, fits, misfit, ranks_differ, scale_from


@dataclass(frozen=True)
class Tucker(LayerUpdate):
    """dW = scale * up . mid . down, of a convolution.

    down: (rank, n). mid: (rank, rank, *kernel). up: (out, rank).
    """

    down: Tensor
    mid: Tensor
    up: Tensor
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def outputs(self) -> int:
        return self.up.shape[0]

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.down.shape[1], *self.mid.shape[2:])

    @property
    def is_low_rank(self) -> bool:
        return True

    def delta(self) -> Tensor:
        return self.factors().delta()

    def added(self, layer: LayerPass) -> Tensor:
        hidden = self._hidden(layer)
        return (self.up.to(hidden.dtype) @ hidden.flatten(2)).unflatten(2, hidden.shape[2:])

    def act(self, layer: LayerPass, amount: float | Tensor) -> None:
        hidden = self._hidden(layer)
        add_product(layer.base, hidden, self.up.to(hidden.dtype), amount, True)

    def _hidden(self, layer: LayerPass) -> Tensor:
        """(B, rank, *spatial)"""
        x = layer.x
        channels = (self.down.to(x.dtype) @ x.flatten(2)).unflatten(2, x.shape[2:])
        return layer.product(channels, self.mid.to(x.dtype))

    def with_outputs_times(self, factor: Tensor) -> Tucker:
        return replace(self, up=factor[:, None] * self.up)

    def factors(self) -> Factors:
        return Factors(_folded(self.mid, self.down), self.up, self.scale, self.rows)

    def entries(self) -> Factors:
        return self.factors()


def _factor(part: str, letter: str) -> re.Pattern[str]:
    return ending(
        rf"\.lora_{part}\.weight"
        rf"|[._]lora\.{part}\.weight"
        rf"|\.lora_linear_layer\.{part}\.weight"
        rf"|\.lora_{letter}(?:\.[^.]+)?\.weight"
        rf"|\.lora_{letter}"
    )


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    kernel = tensors["mid" if "mid" in tensors else "down"].shape[2:]
    return (tensors["up"].shape[0], *tensors["down"].shape[1:2], *kernel)


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Factors | Tucker:
    (down_key, down), (up_key, up) = parts["down"], parts["up"]
    if down.ndim < 2 or not down.numel():
        raise misfit(down_key, down, layer)
    rank, mid = down.shape[0], None
    if "mid" in parts:
        _check_mid(down_key, down, *parts["mid"], layer)
        down, mid = down.reshape(rank, -1), parts["mid"][1]
        if rank * math.prod(layer.inputs) <= down.numel() + mid.numel():
            down, mid = _folded(mid, down), None
    elif not fits(down.shape[1:], layer.inputs):
        raise misfit(down_key, down, layer)
    if up.ndim < 2 or up.shape[0] != layer.out or set(up.shape[2:]) - {1}:
        raise misfit(up_key, up, layer)
    if up.shape[1] != rank:
        raise ranks_differ(down_key, down, up_key, up)
    up, scale, rows = (
        up.reshape(layer.out, rank),
        scale_from(parts, rank, stated),
        layer.target.rows,
    )
    if mid is not None:
        return Tucker(down, mid.reshape(rank, rank, *layer.inputs[1:]), up, scale, rows)
    return Factors(down.reshape(rank, *layer.inputs), up, scale, rows)


def _check_mid(down_key: str, down: Tensor, mid_key: str, mid: Tensor, layer: AdaptedLayer) -> None:
    """down (rank, n, 1..), mid (rank, rank, *kernel)."""
    rank = down.shape[0]
    if mid.ndim < 3 or tuple(mid.shape[:2]) != (rank, rank) or set(down.shape[2:]) - {1}:
        raise ranks_differ(down_key, down, mid_key, mid)
    if not fits((down[0].numel(), *mid.shape[2:]), layer.inputs):
        raise misfit(mid_key, mid, layer)
    made = rank * math.prod((down[0].numel(), *mid.shape[2:]))
    check_made(made, (down_key, down), (mid_key, mid))


def _folded(mid: Tensor, down: Tensor) -> Tensor:
    """(rank, rank, *kernel) and (rank, n) -> (rank, n, *kernel), in float32 at least."""
    return torch.einsum("mr...,rn->mn...", wide(mid), wide(down))


KINDS.carry(
    AdapterKind(
        "LoRA",
        {
            "down": _factor("down", "A"),
            "up": _factor("up", "B"),
            "mid": ending(r"\.lora_mid\.weight"),
        },
        forms=(frozenset({"down", "up"}), frozenset({"down", "up", "mid"})),
        made_of="a down and an up factor (LoCon: and a mid)",
        shape=_shape,
        update=_update,
    )
)
