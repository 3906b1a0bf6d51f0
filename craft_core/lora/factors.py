"""Low-rank factors of one layer from a file's raw tensors; the only place with alpha / rank.

    dW = scale * up @ down,   scale = alpha / rank   (rsLoRA: alpha / sqrt(rank))

- LoRA and LoCon: the two factors as they are, fitted to the layer's weight shape.
- Tucker LoCon (lora_mid): dW = up . mid . down is up . (mid . down), so mid folds into down.
- LoHa (hada_*), Hyeon-Woo et al. 2022, arXiv 2108.06098: (a1 b1) * (a2 b2) elementwise is the
  product of all column pairs of a1, a2 with all row pairs of b1, b2, of rank r1 r2. Its scale
  is alpha / r1, as LyCORIS writes it.
- A missing alpha means alpha = rank, as PEFT, diffusers and the host read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CraftError
from ..types import Factors, Target
from .peft_config import Stated

Parts = Mapping[str, tuple[str, Tensor]]
"""Part of an update (formats.Key.part) -> (the file's key, its tensor)."""

_LORA = ("down", "up")
_HADA = ("w1_a", "w1_b", "w2_a", "w2_b")
_SAVE_AGAIN = "Save the LoRA again with the tool it was made with"


@dataclass(frozen=True)
class Place:
    """Where an update goes. shape: the whole weight, (out, n) or (out, n, *kernel).

    family: the model family the file's names look like, for error messages.
    """

    target: Target
    shape: tuple[int, ...]
    family: str | None = None

    @property
    def out(self) -> int:
        """Outputs the update covers."""
        return self.target.rows[1] if self.target.rows else self.shape[0]

    @property
    def inputs(self) -> tuple[int, ...]:
        """(n, *kernel)."""
        return self.shape[1:]


def scale_of(alpha: float, rank: int, rslora: bool = False) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (Kalajdzievski 2023,
    arXiv 2312.03732)."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def alpha_of(scale: float, rank: int) -> float:
    """The alpha that reads back as the scale; for about one scale in six (0.7 at rank 3) no
    float does, then the nearest."""
    alpha = scale * rank
    tries = (alpha, math.nextafter(alpha, -math.inf), math.nextafter(alpha, math.inf))
    return next((value for value in tries if scale_of(value, rank) == scale), alpha)


def is_plain_float(tensor: Tensor) -> bool:
    """Whether it holds one floating-point number an element (float4 packs two)."""
    return tensor.is_floating_point() and "float4" not in str(tensor.dtype)


def build_factors(parts: Parts, place: Place, stated: Stated) -> Factors:
    """The factors of one layer from the file's tensors for it.

    stated: what the file's metadata says about its alpha and rank.
    Raises CraftError, naming keys and shapes, if the tensors do not make an update of that shape.
    """
    for key, tensor in parts.values():
        _check_float(key, tensor)
    if any(part in parts for part in _HADA):
        _check_complete(parts, _HADA, ("t1", "t2"))
        down, up, rank = _hadamard(parts, place)
    else:
        _check_complete(parts, _LORA, ("mid",))
        down, up, rank = _plain(parts, place)
    return Factors(down, up, _scale(parts, rank, stated), place.target.rows)


def combine(factors: Sequence[Factors], out: int | None = None) -> Factors:
    """All updates of one layer as one, with rows = None.

    Factors that cover a slice of the outputs get zero rows elsewhere; several are laid side by
    side, (r1 + r2 + ..) ranks. The largest scale is that of all; another one's ratio to it goes
    into its up factor, in float32 at least. So no up factor grows, and nothing is rounded where
    the ratios are powers of two. out: the layer's outputs, by default the rows covered.
    """
    assert factors, "there is nothing to combine"
    if len(factors) == 1 and factors[0].rows is None:
        return factors[0]
    spans = [one.rows or (0, one.up.shape[0]) for one in factors]
    out = out or max(start + length for start, length in spans)
    scale = max((one.scale for one in factors), key=abs)
    ups = _one_dtype([
        one.up if one.scale == scale else _wide(one.up) * (one.scale / scale) for one in factors
    ])  # fmt: skip
    down = torch.cat(_one_dtype([one.down for one in factors]))  # (sum of ranks, n, *kernel)
    up = ups[0].new_zeros(out, down.shape[0])
    column = 0
    for (start, length), part in zip(spans, ups, strict=True):
        up[start : start + length, column : column + part.shape[1]] = part
        column += part.shape[1]
    return Factors(down, up, scale)


def rounded(factors: Factors, name: str, dtype: torch.dtype) -> Factors:
    """The factors in a file's type; CraftError where that cannot hold them. name: of the layer."""
    down, up = factors.down.to(dtype), factors.up.to(dtype)
    if not (down.isfinite().all() and up.isfinite().all()):
        raise CraftError(
            f"{name} does not fit {str(dtype).removeprefix('torch.')}",
            "fp16 holds numbers up to 65504; bf16 and fp32 go far beyond",
            "Save as bf16 or fp32",
        )
    return replace(factors, down=down, up=up)


def _plain(parts: Parts, place: Place) -> tuple[Tensor, Tensor, int]:
    """LoRA, LoCon and Tucker LoCon: down (rank, n, *kernel), up (out, rank), rank."""
    (down_key, down), (up_key, up) = parts["down"], parts["up"]
    if down.ndim < 2 or not down.numel():
        raise _misfit(down_key, down, place)
    rank = down.shape[0]
    folded = _fold_mid(down_key, down, *parts["mid"]) if "mid" in parts else down
    if not _fits(folded.shape[1:], place.inputs):
        raise _misfit(down_key, down, place)
    if up.ndim < 2 or up.shape[0] != place.out or set(up.shape[2:]) - {1}:
        raise _misfit(up_key, up, place)
    if up.shape[1] != rank:
        raise _ranks_differ(down_key, down, up_key, up)
    return folded.reshape(rank, *place.inputs), up.reshape(place.out, rank), rank


def _fold_mid(down_key: str, down: Tensor, mid_key: str, mid: Tensor) -> Tensor:
    """down (rank, n, 1..) and mid (rank, rank, *kernel) -> (rank, n, *kernel), float32."""
    rank = down.shape[0]
    if mid.ndim < 3 or tuple(mid.shape[:2]) != (rank, rank) or set(down.shape[2:]) - {1}:
        raise _ranks_differ(down_key, down, mid_key, mid)
    return torch.einsum("mr...,rn->mn...", _wide(mid), _wide(down.reshape(rank, -1)))


def _hadamard(parts: Parts, place: Place) -> tuple[Tensor, Tensor, int]:
    """LoHa: down (r1 r2, n, *kernel), up (out, r1 r2) in float32, and r1 for the scale.

    Not more than min(out, n * kernel) ranks: beyond them the product itself is the smaller form.
    """
    up1, down1 = _hada_pair(parts, "1", place)
    up2, down2 = _hada_pair(parts, "2", place)
    rank, size = up1.shape[1] * up2.shape[1], down1.shape[1]
    if rank <= min(place.out, size):
        up = (up1[:, :, None] * up2[:, None, :]).flatten(1)  # (out, r1 r2)
        down = (down1[:, None, :] * down2[None, :, :]).flatten(0, 1)  # (r1 r2, n * kernel)
    else:
        product = (up1 @ down1) * (up2 @ down2)  # (out, n * kernel)
        tall = place.out > size
        up = product if tall else torch.eye(place.out, dtype=product.dtype)
        down = torch.eye(size, dtype=product.dtype) if tall else product
    return down.reshape(-1, *place.inputs), up, parts["w1_b"][1].shape[0]


def _hada_pair(parts: Parts, number: str, place: Place) -> tuple[Tensor, Tensor]:
    """One of the two products: up (out, r), down (r, n * kernel); a Tucker core t goes into down.

    With a core the file's tensors are a (r, out), b (r, n), t (r, r, *kernel).
    """
    (a_key, a), (b_key, b) = parts[f"w{number}_a"], parts[f"w{number}_b"]
    for key, tensor in ((a_key, a), (b_key, b)):
        if tensor.ndim != 2 or not tensor.numel():
            raise _misfit(key, tensor, place)
    up, down = _wide(a), _wide(b)
    if f"t{number}" in parts:
        core_key, core = parts[f"t{number}"]
        if core.ndim < 3 or tuple(core.shape[:2]) != (a.shape[0], b.shape[0]):
            raise _ranks_differ(core_key, core, b_key, b)
        up, down = up.T, torch.einsum("ij...,jn->in...", _wide(core), down)
    if up.shape[0] != place.out:
        raise _misfit(a_key, a, place)
    if not _fits(down.shape[1:], place.inputs):
        raise _misfit(b_key, b, place)
    if up.shape[1] != down.shape[0]:
        raise _ranks_differ(b_key, b, a_key, a)
    return up, down.flatten(1)


def _scale(parts: Parts, rank: int, stated: Stated) -> float:
    """The scale from the file's own alpha, else from its metadata, else 1.

    Metadata that states another rank is left over from before the factors were made anew (a
    resized LoRA, say). It says nothing then, and is refused only where alpha is nowhere else.
    """
    stale = stated.rank is not None and stated.rank != rank
    if "alpha" in parts:
        key, tensor = parts["alpha"]
        if tensor.numel() != 1:
            raise CraftError(
                f"{key} has shape {tuple(tensor.shape)}", "An alpha is one number", _SAVE_AGAIN
            )
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


def _fits(given: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether input axes are the layer's: the same up to trailing ones, or flattened into one."""
    flattened = len(given) == 1 and given[0] == math.prod(wanted)
    return flattened or _without_ones(given) == _without_ones(wanted)


def _without_ones(axes: Sequence[int]) -> tuple[int, ...]:
    kept = list(axes)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _one_dtype(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in the dtype they share, else in one that holds all of them exactly."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1:
        return list(tensors)
    return [t.double() if torch.float64 in dtypes else t.float() for t in tensors]


def _check_float(key: str, tensor: Tensor) -> None:
    integer_alpha = tensor.numel() == 1 and not tensor.is_floating_point()
    if not (is_plain_float(tensor) or integer_alpha):
        raise CraftError(
            f"{key} holds {str(tensor.dtype).removeprefix('torch.')} numbers",
            "LoRA tensors are floating point (float32, float16, bfloat16, float8)",
            "Use the LoRA as it was before it was quantised",
        )


def _check_complete(parts: Parts, needed: Sequence[str], optional: Sequence[str]) -> None:
    """CraftError unless all needed parts are there, all optional ones or none, and no others."""
    given = set(parts) - {"alpha"}
    if given in (set(needed), {*needed, *optional}):
        return
    raise CraftError(
        f"For one layer the file holds just {', '.join(key for key, _ in parts.values())}",
        "An update is a down and an up factor (LoCon: and a mid), or the four of a LoHa",
        "The file is incomplete or damaged: get it again",
    )


def _ranks_differ(key: str, tensor: Tensor, other_key: str, other: Tensor) -> CraftError:
    return CraftError(
        f"{key} {tuple(tensor.shape)} and {other_key} {tuple(other.shape)} do not share a rank",
        "Both factors of one layer have the same rank",
        "The file is damaged: get it again",
    )


def _misfit(key: str, tensor: Tensor, place: Place) -> CraftError:
    rows = place.target.rows
    covered = f"outputs {rows[0]} to {sum(rows) - 1} of " if rows else ""
    looks = f"; the names in this file look like {place.family}" if place.family else ""
    return CraftError(
        f"{key} has shape {tuple(tensor.shape)}, which does not fit {covered}"
        f"{place.target.module} of this model, whose weight is {place.shape}",
        f"A LoRA fits only models of the family it was trained on{looks}",
        "This LoRA was made for another base model: load that one, or choose another LoRA",
    )
