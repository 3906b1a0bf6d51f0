"""What every adapter kind needs of its raw tensors: their checks, their fit, their scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import CraftError
from ...types import LayerTarget
from ..factors import is_plain_float, scale_of
from ..peft_config import Stated

Parts = Mapping[str, tuple[str, Tensor]]
"""Part of an update (kinds.Key.part) -> (the file's key, its tensor)."""

_MOST_MADE = 64  # times the numbers of a file that an update is made of; a LoHa of rank 64 has 32
_LARGEST_KERNEL = 27  # of which each place counts anew, as in a LoHa with cores
_SAVE_AGAIN = "Save the LoRA again with the tool it was made with"


@dataclass(frozen=True)
class AdaptedLayer:
    """Where an update goes. shape: the whole weight, (out, n), (out, n, *kernel), or (n,) of a
    normalisation.

    family: gives the model family the file's names look like, for error messages.
    """

    target: LayerTarget
    shape: tuple[int, ...]
    family: Callable[[], str | None] = lambda: None

    @property
    def out(self) -> int:
        """Outputs of the file's update."""
        if self.target.of is not None:
            return self.target.of
        return self.target.rows[1] if self.target.rows else self.shape[0]

    @property
    def inputs(self) -> tuple[int, ...]:
        """(n, *kernel) that the update covers, or () of a normalisation."""
        columns = self.target.columns
        return (columns[1], *self.shape[2:]) if columns else self.shape[1:]


def scale_from(parts: Parts, rank: int, stated: Stated) -> float:
    """The scale from the file's own alpha, else from its metadata, else 1.

    Metadata that states another rank is left over from before the factors were made anew (a
    resized LoRA, say). It says nothing then, and is refused only where alpha is nowhere else.
    CraftError for a rank of 0 too, as alpha / rank is then no number.
    """
    if rank < 1:
        key = next(iter(parts.values()))[0]
        raise CraftError(
            f"The factors at {key} have rank 0", "A LoRA has rank 1 or more", _SAVE_AGAIN
        )
    stale = stated.rank is not None and stated.rank != rank
    if "alpha" in parts:
        key, tensor = parts["alpha"]
        if tensor.numel() != 1:
            raise CraftError(
                f"{key} has shape {tuple(tensor.shape)}", "An alpha is one number", _SAVE_AGAIN
            )
        check_float(key, tensor)
        return scale_of(float(tensor.item()), rank, stated.rslora and not stale)
    if stated.alpha is None:
        return 1.0
    if stale:
        key = next(iter(parts.values()))[0]
        raise CraftError(
            f"{key} has rank {rank}, but the file's metadata says {stated.rank}",
            "The file has no alpha but the metadata's, and alpha / rank is then ambiguous",
            _SAVE_AGAIN,
        )
    return scale_of(stated.alpha, rank, stated.rslora)


def check_made(made: int, *of: tuple[str, Tensor], kernel: int = 1) -> None:
    """CraftError where a few numbers of a file would become very many: an update takes memory in
    proportion to its file. made: how many; of: the keys and tensors that they are made of. kernel:
    places of a convolution's, for a whole update."""
    held = sum(tensor.numel() for _, tensor in of) * min(kernel, _LARGEST_KERNEL)
    if made > _MOST_MADE * held:
        names = " and ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in of[:3])
        raise CraftError(
            f"{names} would become {made} numbers",
            f"An update's factors become up to {_MOST_MADE} times as many numbers as they are",
            "The file is damaged, or its ranks are far too large for its layers: get another one",
        )


def fits(given: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether input axes are the layer's: the same up to trailing ones, or flattened into one."""
    flattened = len(given) == 1 and given[0] == math.prod(wanted)
    return flattened or _without_ones(given) == _without_ones(wanted)


def _without_ones(axes: Sequence[int]) -> tuple[int, ...]:
    kept = list(axes)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def check_float(key: str, tensor: Tensor) -> None:
    whole = not (tensor.is_floating_point() or tensor.is_complex())
    integer_alpha = whole and tensor.numel() == 1
    if not (is_plain_float(tensor) or integer_alpha):
        raise CraftError(
            f"{key} holds {str(tensor.dtype).removeprefix('torch.')} numbers",
            "LoRA tensors are floating point (float32, float16, bfloat16, float8)",
            "Use the LoRA as it was before it was quantised",
        )


def ranks_differ(key: str, tensor: Tensor, other_key: str, other: Tensor) -> CraftError:
    return CraftError(
        f"{key} {tuple(tensor.shape)} and {other_key} {tuple(other.shape)} do not share a rank",
        "Both factors of one layer have the same rank",
        "The file is damaged: get it again",
    )


def incomplete_pair(key: str) -> CraftError:
    return CraftError(
        f"For one layer the file holds {key} without the factors that it belongs to",
        "The bias of an up factor is scaled as its pair of factors is",
        "The file is incomplete or damaged: get it again",
    )


def misfit(key: str, tensor: Tensor, layer: AdaptedLayer) -> CraftError:
    rows, columns = layer.target.rows, layer.target.columns
    covered = f"outputs {rows[0]} to {sum(rows) - 1} of " if rows else ""
    covered += f"inputs {columns[0]} to {sum(columns) - 1} of " if columns else ""
    where = covered + layer.target.module
    family = layer.family()
    looks = f"; the names in this file look like {family}" if family else ""
    return CraftError(
        f"{key} has shape {tuple(tensor.shape)}, which does not fit {where} of this model, whose "
        f"weight is {layer.shape}",
        f"A LoRA fits only models of the family it was trained on{looks}",
        "This LoRA was made for another base model: load that one, or choose another LoRA",
    )
