"""Scales that a file states in its metadata alone, for loaders that read tensors only.

PEFT's alpha and rank-stabilised scale are in the metadata (peft_config.py). The host's loader
reads no metadata, so it takes such an update at a scale of 1, or at alpha / rank of an alpha
tensor. Written as alpha tensors the scales are the same to every loader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..errors import CraftError
from .factors import scale_of
from .families import is_text_encoder
from .formats import KINDS, Parts
from .formats.parts import scale_from
from .peft_config import read_peft_configs, stated_for

_Scales = tuple[str, Parts, float, float]
"""(stem, its parts, its scale, what it is without the metadata)."""


def stale_scales(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[CraftError]:
    """What is wrong with each scale that the metadata states for another rank."""
    return [fault for *_, fault in _read(state, metadata) if fault]


def with_stated_alphas(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], allow: bool = False
) -> dict[str, Tensor]:
    """The tensors, with an alpha for each scale that only the metadata states.

    allow: leave out updates whose metadata is stale; else CraftError, as for a layer. Raises
    CraftError for metadata that cannot be read.
    """
    tensors = dict(state)
    for _, parts, fault in _read(state, metadata):
        if fault and not allow:
            raise fault
        for key, _ in parts.values() if fault else ():
            del tensors[key]
    for stem, parts, scale, _ in _stated(state, metadata):
        tensors.pop(parts["alpha"][0] if "alpha" in parts else "", None)
        rank = parts["down"][1].shape[0]
        tensors[f"{stem}.alpha"] = torch.tensor(scale * rank, dtype=torch.float64)
    return tensors


def stated_scales_note(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """One line on how these scales differ from what the host's loader makes of the file; "" where
    they do not."""
    stated = list(_stated(state, metadata))
    if not stated:
        return ""
    texts = sum(is_text_encoder(stem) for stem, *_ in stated)
    what = _counted(len(stated) - texts, texts)
    factors = sorted({round(scale / plain, 6) for *_, scale, plain in stated})
    times = f"{factors[0]:g}" + (f" to {factors[-1]:g}" if len(factors) > 1 else "")
    return (
        f"{what} {'is' if len(stated) == 1 else 'are'} scaled by the alpha or rsLoRA in the file's "
        f"metadata, {times} times what ComfyUI's LoRA loader, which reads no metadata, makes of "
        "the file"
    )


def _counted(layers: int, texts: int) -> str:
    """ "1 layer", "2 text-encoder matrices", "3 layers and 1 text-encoder matrix"."""
    if not layers:
        return "1 text-encoder matrix" if texts == 1 else f"{texts} text-encoder matrices"
    of_layers = "1 layer" if layers == 1 else f"{layers} layers"
    if not texts:
        return of_layers
    of_texts = f" and {texts} text-encoder matrices"
    return of_layers + (" and 1 text-encoder matrix" if texts == 1 else of_texts)


def _stated(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[_Scales]:
    """The updates whose scale the metadata changes."""
    configs = read_peft_configs(metadata)
    for stem, parts, fault in _read(state, metadata):
        if fault:
            continue
        rank = parts["down"][1].shape[0]
        scale = scale_from(parts, rank, stated_for(configs, stem))
        plain = scale_of(float(parts["alpha"][1].item()), rank) if "alpha" in parts else 1.0
        if scale != plain and plain:
            yield stem, parts, scale, plain


def _read(
    state: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterator[tuple[str, Parts, CraftError | None]]:
    """(stem, its parts, why its scale cannot be told) of the LoRAs that the metadata speaks of."""
    configs = read_peft_configs(metadata)
    found: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for key, tensor in state.items() if configs else ():
        split = KINDS.split(key)
        if split is not None:
            found.setdefault(split.stem, {})[split.part] = (key, tensor)
    for stem, parts in found.items():
        if "down" not in parts or parts["down"][1].ndim < 2:  # PEFT's metadata is of LoRAs only
            continue
        try:
            scale_from(parts, parts["down"][1].shape[0], stated_for(configs, stem))
        except CraftError as error:
            yield stem, parts, error
        else:
            yield stem, parts, None
