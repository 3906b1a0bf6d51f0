"""LoRA and LoCon: dW = scale * up @ down (Hu et al. 2021, arXiv:2106.09685, Eq. 3).

- The two factors are taken as they are, fitted to the layer's weight shape.
- Tucker LoCon (lora_mid): dW = up . mid . down is up . (mid . down), so mid folds into down.

Known are the endings of kohya and LyCORIS (lora_down / lora_up / lora_mid), of diffusers before
PEFT (_lora.down, .lora.down, lora_linear_layer.down), and of PEFT (lora_A / lora_B, with or
without adapter name). PEFT's A is the down factor, B the up factor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ...types import Factors
from ..factors import wide
from ..peft_config import Stated
from .kinds import KINDS, AdapterKind, ending
from .parts import AdaptedLayer, Parts, check_made, fits, misfit, ranks_differ, scale_from


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


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Factors:
    """down (rank, n, *kernel), up (out, rank)."""
    (down_key, down), (up_key, up) = parts["down"], parts["up"]
    if down.ndim < 2 or not down.numel():
        raise misfit(down_key, down, layer)
    rank = down.shape[0]
    folded = _fold_mid(down_key, down, *parts["mid"], layer) if "mid" in parts else down
    if not fits(folded.shape[1:], layer.inputs):
        raise misfit(down_key, down, layer)
    if up.ndim < 2 or up.shape[0] != layer.out or set(up.shape[2:]) - {1}:
        raise misfit(up_key, up, layer)
    if up.shape[1] != rank:
        raise ranks_differ(down_key, down, up_key, up)
    return Factors(
        folded.reshape(rank, *layer.inputs),
        up.reshape(layer.out, rank),
        scale_from(parts, rank, stated),
        layer.target.rows,
    )


def _fold_mid(
    down_key: str, down: Tensor, mid_key: str, mid: Tensor, layer: AdaptedLayer
) -> Tensor:
    """down (rank, n, 1..) and mid (rank, rank, *kernel) -> (rank, n, *kernel), float32."""
    rank = down.shape[0]
    if mid.ndim < 3 or tuple(mid.shape[:2]) != (rank, rank) or set(down.shape[2:]) - {1}:
        raise ranks_differ(down_key, down, mid_key, mid)
    if not fits((down[0].numel(), *mid.shape[2:]), layer.inputs):
        raise misfit(mid_key, mid, layer)
    made = rank * math.prod((down[0].numel(), *mid.shape[2:]))
    check_made(made, (down_key, down), (mid_key, mid))
    return torch.einsum("mr...,rn->mn...", wide(mid), wide(down.reshape(rank, -1)))


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
