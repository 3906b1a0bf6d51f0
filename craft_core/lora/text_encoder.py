"""The text-encoder parts of several LoRA files as one: factors laid side by side, so that only
rounding to the file's type is lost.

The host applies them by names of its own, so nothing here needs the text encoder. One matrix may
be called lora_te_..., lora_te1_... or text_encoder....; where files differ, the first file's name
stays, because the host would take two names for one matrix as one update and lose the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CraftError, listed
from ..types import Factors, LayerTarget, LayerUpdate, LoraFile
from .factors import alpha_of, combine, rounded, scale_of
from .formats import KINDS, AdaptedLayer, Parts, build_updates, shape_of
from .peft_config import Stated, read_peft_configs, stated_for
from .statistics.squared_norm import frobenius_norm
from .storage import named
from .without_model import stems_of

_PREFIX = re.compile(
    r"(?:base_model\.model\.)*"
    r"(?:lora_te(\d*)_|te(\d*)[._]|lora_text_encoder(\d*)_|text_encoder(?:_(\d+))?[._])"
)
_LARGEST = 1 << 28  # numbers of a matrix of full rank that factors stand for
_MOST_DENSE = 1 << 30  # of all of these; two CLIPs have 0.8 of it
_DIFFUSERS_ATTENTION = re.compile(r"_to_(q|k|v|out)\Z")


@dataclass(frozen=True)
class TextPart:
    """The merged tensors by their keys, and how many matrices they change. error: how far the
    tensors are from the sum, relative to it over all matrices (Frobenius), which is rounding.
    files: of each file, whether it is part of the sum. faults: what was left out, and why."""

    tensors: Mapping[str, Tensor]
    matrices: int
    error: float = 0.0
    files: tuple[bool, ...] = ()
    faults: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """A report line on what was left out, if anything was."""
        if not self.faults:
            return []
        return [f"Text encoder: {len(self.faults)} left out ({listed(self.faults, 3)})"]


def merge_text_encoders(
    files: Sequence[LoraFile],
    strengths: Sequence[float],
    dtype: torch.dtype,
    allow: bool = False,
) -> TextPart:
    """sum over files of strength * dW, for every matrix of a text encoder that one of them adapts.

    Written as lora_down, lora_up and alpha under the first file's stem, in `dtype`; what changes a
    bias or a normalisation as a difference. A strength of 0 leaves a file out. Raises CraftError
    for tensors that cannot be added up (of a kind that is not carried, incomplete, of a kind that
    needs the weight), unless they may be left out (allow), and for sums that `dtype` cannot hold.
    """
    faults: list[str] = []

    def fault(error: CraftError) -> None:
        if not allow:
            raise error
        faults.append(error.given)

    stems: dict[str, str] = {}
    updates: dict[tuple[str, bool], list[LayerUpdate]] = {}
    for file, strength in zip(files, strengths, strict=True):
        if strength == 0.0:
            continue
        configs = read_peft_configs(file.metadata)
        found = stems_of(file.text_encoder, text_encoder=True)
        for error in (_unknown(file, found), *_second_names(found)):
            if error:
                fault(error)
        for stem, parts in _first_names(found).items():
            if set(parts) == {"alpha"}:  # an alpha without factors
                continue
            try:
                built = _built(stem, parts, stated_for(configs, stem))
            except CraftError as error:
                fault(error)
                continue
            name = stems.setdefault(_plain(stem), stem)
            for update in built:
                weighted = replace(update, scale=update.scale * strength)
                updates.setdefault((name, update.of_bias), []).append(weighted)
    tensors: dict[str, Tensor] = {}
    dense = sum(_dense(stem, parts) for (stem, _), parts in updates.items())
    if dense > _MOST_DENSE:
        raise CraftError(
            f"The text-encoder parts would become {dense} numbers, up to {_MOST_DENSE} are written",
            "What is of full rank is written as one number for each of the weight",
            "Leave the text-encoder parts out, or convert them to plain LoRAs",
        )
    sizes, errors = [], []
    for (stem, of_bias), parts in updates.items():
        whole = _joined(stem, parts)
        stored = _stored(stem, whole, dtype)
        tensors |= named(stem, stored, _alpha(stored), of_bias)
        sizes.append(frobenius_norm(whole))
        errors.append(frobenius_norm((whole, replace(stored, scale=-stored.scale))))
    size = math.hypot(*sizes)
    taken = [strength != 0.0 and count_matrices(file) > 0
             for file, strength in zip(files, strengths, strict=True)]  # fmt: skip
    error = math.hypot(*errors) / size if size else 0.0
    matrices = len({stem for stem, _ in updates})
    return TextPart(tensors, matrices, error, tuple(taken), tuple(faults))


def count_matrices(file: LoraFile) -> int:
    """How many matrices of text encoders the file changes."""
    found = stems_of(file.text_encoder, text_encoder=True)
    return sum(set(parts) != {"alpha"} for parts in found.values())


def _built(stem: str, parts: Parts, stated: Stated) -> list[LayerUpdate]:
    shape = shape_of(parts)
    if shape == ():  # only a kind that needs the weight tells nothing of it
        raise _needs_weight(stem, KINDS.of(parts)[0].name)
    layer = AdaptedLayer(LayerTarget(stem), shape or (0, 0))
    built = [update for update, _ in build_updates(parts, layer, stated)]
    for update in built:
        if update.on_weight:
            raise _needs_weight(stem, update.kind)
    return built


def _needs_weight(stem: str, kind: str) -> CraftError:
    return CraftError(
        f"{stem} is a text-encoder update of {kind}, which depends on the weight that it changes",
        "Text-encoder parts are added up from the files alone, without any weight",
        "Leave such parts out (allow_unmatched, --allow-unmatched), or load the file with "
        "ComfyUI's own LoRA loader",
    )


def _joined(stem: str, parts: Sequence[LayerUpdate]) -> Factors:
    shapes = {(one.outputs, *one.inputs) for one in parts}
    if len(shapes) > 1:
        raise CraftError(
            f"{stem} has the shapes {' and '.join(map(str, sorted(shapes)))} in these files",
            "LoRAs can be merged only if they were made for the same text encoder",
            "Choose files of one model family",
        )
    return combine(parts)


def _dense(stem: str, parts: Sequence[LayerUpdate]) -> int:
    """How many numbers the sum is written in where factors stand for one of full rank, else 0."""
    size = math.prod((parts[0].outputs, *parts[0].inputs))
    held = sum(tensor.numel() for one in parts for tensor in one.tensors().values())
    if all(one.is_low_rank for one in parts) or held >= size:
        return 0
    if size > _LARGEST:
        raise CraftError(
            f"{stem} is an update of full rank, of {size} numbers",
            f"Factors of a text encoder may stand for up to {_LARGEST} numbers",
            "Leave the text-encoder parts out, or convert them to plain LoRAs",
        )
    return size


def _stored(stem: str, factors: Factors, dtype: torch.dtype) -> Factors:
    """As the file will hold them: the factors in its type, the scale as an alpha in float32."""
    stored = rounded(factors, stem, dtype)
    if stored.down.ndim == 1:
        return stored
    return replace(stored, scale=scale_of(_alpha(factors).item(), factors.rank))


def _alpha(factors: Factors) -> Tensor:
    return torch.tensor(alpha_of(factors.scale, factors.rank), dtype=torch.float32)


def _unknown(file: LoraFile, found: Mapping[str, Mapping]) -> CraftError | None:
    known = {key for parts in found.values() for key, _ in parts.values()}
    unknown = [key for key in file.text_encoder if key not in known]
    if not unknown:
        return None
    return CraftError(
        f"The text-encoder part holds tensors of another kind: {listed(unknown, 3)}",
        f"{KINDS.names} are merged exactly",
        "Leave the text-encoder part out, or convert it to a plain LoRA",
    )


def _first_names(found: Mapping[str, Parts]) -> dict[str, Parts]:
    """Each matrix by the first name that a file has for it."""
    first: dict[str, str] = {}
    for stem in found:
        first.setdefault(_plain(stem), stem)
    return {stem: found[stem] for stem in first.values()}


def _second_names(found: Mapping[str, Parts]) -> Iterator[CraftError]:
    first = {_plain(stem): stem for stem in _first_names(found)}
    for stem in found:
        other = first[_plain(stem)]
        if other != stem:
            yield CraftError(
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
