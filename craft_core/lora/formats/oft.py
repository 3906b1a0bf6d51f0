"""OFT and BOFT: the outputs rotated, W' = R W (Qiu et al. 2023, arXiv:2306.07280; Liu et al. 2024,
arXiv:2311.06243), as LyCORIS writes them and the host reads them.

R = (I + Q) (I - Q)^-1 with Q = B - B^T, block by block along the outputs: a rotation of what the
layer returns, less its bias, so no weight is needed. The file's alpha is no scale but a bound on
|Q|. BOFT multiplies several such rotations, each on outputs in another order (a butterfly).

At a gate s the host adds s times the difference that rotations of s (R - I) + I make: of one
rotation s^2 (R - I) W. That is kept, and so is that the host does not use OFT's `rescale`, while it
uses BOFT's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import CraftError
from ...types import LayerPass
from ..factors import wide
from ..peft_config import Stated
from .kinds import ALPHA, KINDS, AdapterKind, ending
from .on_weight import OnWeight
from .parts import AdaptedLayer, Parts, misfit

_ASTRAY = 0.01  # largest entry of R R^T - I


@dataclass(frozen=True)
class Rotation(OnWeight):
    """turns: R - I, (blocks, b, b), or of each stage of a butterfly (stages, blocks, b, b).
    rescaled: (out,), what the rotated outputs are multiplied by; None for nothing. layer_inputs:
    (n, *kernel) of the layer, which no rotation tells."""

    kind: ClassVar[str] = "OFT"
    precise: ClassVar[tuple[str, ...]] = ("rescaled",)

    turns: Tensor
    layer_inputs: tuple[int, ...]
    rescaled: Tensor | None = None
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def outputs(self) -> int:
        return self.turns.shape[-3] * self.turns.shape[-1]

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.layer_inputs

    def change(self, weight: Tensor, gate: float) -> Tensor:
        return self._change(weight, self.turns.float(), gate)

    def added(self, layer: LayerPass) -> Tensor:
        outputs = layer.unbiased.movedim(layer.axis, 0)
        turns = self.turns.to(outputs.dtype)
        return self._change(outputs, turns, layer.gate).movedim(0, layer.axis)

    def _change(self, outputs: Tensor, turns: Tensor, gate: float) -> Tensor:
        """What is added to (out, ...), outputs first."""
        if turns.ndim == 3:
            return gate * _blocks(outputs, turns.transpose(1, 2))
        turned = outputs
        for stage, turn in enumerate(turns):
            stride = 2**stage * (turn.shape[-1] // 2)
            ordered = _swapped(turned, 2, stride)
            turned = _swapped(ordered + gate * _blocks(ordered, turn), stride, 2)
        if self.rescaled is not None:
            turned = turned * self.rescaled.reshape(-1, *(1,) * (turned.ndim - 1))
        return turned - outputs


def _blocks(outputs: Tensor, matrices: Tensor) -> Tensor:
    """(out, ...) by (blocks, b, b), block by block."""
    apart = outputs.reshape(*matrices.shape[:2], -1)  # (blocks, b, all else)
    return torch.bmm(matrices, apart).reshape(outputs.shape)


def _swapped(outputs: Tensor, inner: int, outer: int) -> Tensor:
    """(groups x inner x outer, ...) -> (groups x outer x inner, ...)"""
    return outputs.unflatten(0, (-1, inner, outer)).transpose(1, 2).flatten(0, 2)


def _shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """The outputs are all that they tell."""
    blocks = tensors["oft_blocks"]
    if blocks.ndim < 3:
        return None
    return (blocks.shape[-3] * blocks.shape[-1],)


def _update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> Rotation:
    key, blocks = parts["oft_blocks"]
    if blocks.ndim not in (3, 4) or not blocks.numel() or blocks.shape[-1] != blocks.shape[-2]:
        raise misfit(key, blocks, layer)
    size = blocks.shape[-1]
    if blocks.shape[-3] * size != layer.out or (blocks.ndim == 4 and not _is_butterfly(blocks)):
        raise misfit(key, blocks, layer)
    rescaled = None
    if blocks.ndim == 4 and "rescale" in parts:
        rescale_key, rescaled = parts["rescale"]
        if rescaled.numel() != layer.out:
            raise misfit(rescale_key, rescaled, layer)
        rescaled = rescaled.flatten()
    bound = 0.0
    if ALPHA in parts:
        alpha_key, alpha = parts[ALPHA]
        if alpha.numel() != 1:
            raise misfit(alpha_key, alpha, layer)
        bound = float(alpha)
    return Rotation(
        _turns(key, wide(blocks), bound), layer.inputs, rescaled, 1.0, layer.target.rows
    )


def _is_butterfly(blocks: Tensor) -> bool:
    """Whether every stage finds its pairs of outputs."""
    stages, count, size = blocks.shape[:3]
    return size % 2 == 0 and count * size % (2**stages * (size // 2)) == 0


def _turns(key: str, blocks: Tensor, bound: float) -> Tensor:
    """R - I, of Q = B - B^T with |Q| at most the bound, where there is one."""
    skew = blocks - blocks.transpose(-1, -2)
    size = skew.norm() + 1e-8
    if 0 < bound < size:
        skew = skew * bound / size
    one = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    turns, failed = torch.linalg.solve_ex(one - skew, 2.0 * skew)  # 2 (I - Q)^-1 Q = R - I
    # Beside numbers so large that I is lost in rounding, some machines solve to nonsense.
    turned = turns + one
    astray = (turned @ turned.transpose(-1, -2) - one).abs().amax()
    if failed.any() or not astray <= _ASTRAY:
        raise CraftError(
            f"{key} holds numbers of up to {blocks.abs().amax().item():g}, which make no rotation",
            "The numbers of an OFT's blocks are small: at 1 it turns by a right angle",
            "The file is damaged: get it again",
        )
    return turns


KINDS.carry(
    AdapterKind(
        "OFT",
        {"oft_blocks": ending(r"\.oft_blocks"), "rescale": ending(r"\.rescale")},
        forms=(frozenset({"oft_blocks"}), frozenset({"oft_blocks", "rescale"})),
        made_of="the blocks of an OFT or BOFT (oft_blocks, with or without rescale)",
        shape=_shape,
        update=_update,
        axes=1,
    )
)
