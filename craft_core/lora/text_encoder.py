"""The text-encoder parts of several LoRA files as one: factors laid side by side, so that only
rounding to the file's type is lost.

The host applies them by names of its own, so nothing here needs the text encoder. One matrix may
be called lora_te_..., lora_te1_... or text_encoder....; where files differ, the first file's name
stays, because the host would take two names for one matrix as one update and lose the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CraftError, listed
from ..types import Factors, LayerTarget, LayerUpdate, LoraFile
from .factors import alpha_of, combine, rounded, scale_of
from .formats import KINDS, AdaptedLayer, build_update, shape_of
from .peft_config import read_peft_configs, stated_for
from .statistics.squared_norm import frobenius_norm
from .without_model import stems_of

_PREFIX = re.compile(
    r"(?:base_model\.model\.)*"
    r"(?:lora_te(\d*)_|te(\d*)[._]|lora_text_encoder(\d*)_|text_encoder(?:_(\d+))?[._])"
)
_DIFFUSERS_ATTENTION = re.compile(r"_to_(q|k|v|out)\Z")


@dataclass(frozen=True)
class TextPart:
    """The merged tensors by their keys, and how many matrices they change. error: how far the
    tensors are from the sum, relative to it over all matrices (Frobenius), which is rounding.
    files: of each file, whether it is part of the sum."""

    tensors: Mapping[str, Tensor]
    matrices: int
    error: float = 0.0
    files: tuple[bool, ...] = ()


def merge_text_encoders(
    files: Sequence[LoraFile], strengths: Sequence[float], dtype: torch.dtype
) -> TextPart:
    """sum over files of strength * dW, for every matrix of a text encoder that one of them adapts.

    Written as lora_down, lora_up and alpha under the first file's stem, in `dtype`. A strength of
    0 leaves a file out. Raises CraftError for tensors of a kind that is not carried, and for sums
    that `dtype` cannot hold.
    """
    stems: dict[str, str] = {}
    updates: dict[str, list[LayerUpdate]] = {}
    for file, strength in zip(files, strengths, strict=True):
        if strength == 0.0:
            continue
        configs = read_peft_configs(file.metadata)
        found = stems_of(file.text_encoder, text_encoder=True)
        _check_all_known(file, found)
        _check_one_name_each(found)
        for stem, parts in found.items():
            name = stems.setdefault(_plain(stem), stem)
            shape = shape_of(parts)
            if set(parts) == {"alpha"}:  # an alpha without factors
                continue
            layer = AdaptedLayer(LayerTarget(stem), shape or (0, 0))
            update, _ = build_update(parts, layer, stated_for(configs, stem))
            updates.setdefault(name, []).append(replace(update, scale=update.scale * strength))
    tensors: dict[str, Tensor] = {}
    sizes, errors = [], []
    for stem, parts in updates.items():
        whole = _joined(stem, parts)
        stored = _stored(stem, whole, dtype)
        tensors |= _named(stem, stored)
        sizes.append(frobenius_norm(whole))
        errors.append(frobenius_norm((whole, replace(stored, scale=-stored.scale))))
    size = math.hypot(*sizes)
    taken = [strength != 0.0 and count_matrices(file) > 0
             for file, strength in zip(files, strengths, strict=True)]  # fmt: skip
    error = math.hypot(*errors) / size if size else 0.0
    return TextPart(tensors, len(updates), error, tuple(taken))


def count_matrices(file: LoraFile) -> int:
    """How many matrices of text encoders the file changes."""
    found = stems_of(file.text_encoder, text_encoder=True)
    return sum(set(parts) != {"alpha"} for parts in found.values())


def _joined(stem: str, parts: Sequence[LayerUpdate]) -> Factors:
    shapes = {(one.outputs, *one.inputs) for one in parts}
    if len(shapes) > 1:
        raise CraftError(
            f"{stem} has the shapes {' and '.join(map(str, sorted(shapes)))} in these files",
            "LoRAs can be merged only if they were made for the same text encoder",
            "Choose files of one model family",
        )
    return combine(parts)


def _stored(stem: str, factors: Factors, dtype: torch.dtype) -> Factors:
    """As the file will hold them: the factors in its type, the scale as an alpha in float32."""
    scale = scale_of(_alpha(factors).item(), factors.rank)
    return replace(rounded(factors, stem, dtype), scale=scale)


def _named(stem: str, factors: Factors) -> dict[str, Tensor]:
    ones = (1,) * (factors.down.ndim - 2)
    return {
        f"{stem}.alpha": _alpha(factors),
        f"{stem}.lora_down.weight": factors.down,
        f"{stem}.lora_up.weight": factors.up.reshape(*factors.up.shape, *ones),
    }


def _alpha(factors: Factors) -> Tensor:
    return torch.tensor(alpha_of(factors.scale, factors.rank), dtype=torch.float32)


def _check_all_known(file: LoraFile, found: Mapping[str, Mapping]) -> None:
    known = {key for parts in found.values() for key, _ in parts.values()}
    unknown = [key for key in file.text_encoder if key not in known]
    if unknown:
        raise CraftError(
            f"The text-encoder part holds tensors of another kind: {listed(unknown, 3)}",
            f"{KINDS.names} are merged exactly",
            "Leave the text-encoder part out, or convert it to a plain LoRA",
        )


def _check_one_name_each(stems: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for stem in stems:
        other = seen.setdefault(_plain(stem), stem)
        if other != stem:
            raise CraftError(
                f"{other} and {stem} name one matrix of a text encoder",
                "A file holds each matrix once",
                "Remove one of the two from the file",
            )


def _plain(stem: str) -> str:
    """One name for a matrix: number of the text encoder and its flat path."""
    found = _PREFIX.match(stem)
    if found is None:
        return stem.replace(".", "_")
    number = next((group for group in found.groups() if group), "1")
    path = _DIFFUSERS_ATTENTION.sub(r"_\1_proj", stem[found.end() :].replace(".", "_"))
    return f"{number}:{path}"
