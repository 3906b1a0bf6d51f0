"""What the basis alone needs: pairs, and the VGG-19 of its perceptual term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...craft_core.registry import Method
from ...craft_core.training import Denoiser, Pairs
from ...craft_core.training.perceptual import read_vgg
from ...craft_core.training.slots import NO_FILE, FileSlot
from ...craft_core.training.targets import trainable
from ..engine.modules import model_layers
from ..model.basis import require_unlimited
from ..model.slot_files import path_of
from .train import FilledSlots, ModelParts, Prepared, datasets, identity


def read_pairs(
    source: ModelParts, method: Method, filled: FilledSlots, settings: Mapping[str, Any]
) -> Prepared:
    """Pair i is content image i with style image i."""
    require_unlimited(source.model, trainable(model_layers(source.model)))
    (slot,) = method.traits.slots.of(FileSlot)
    vgg = filled.choices[slot.key]
    perceptual, note = None, "No VGG-19 file: trained without the perceptual term."
    if vgg != NO_FILE and settings["perceptual_weight"]:
        perceptual, note = read_vgg(path_of(slot, vgg)), f"Perceptual term: {vgg}"
    data = datasets(source, method, filled, settings)
    pairs = Pairs(data["content"], data["style"])

    def made(denoiser: Denoiser) -> tuple[Any, ...]:
        if perceptual is not None:
            perceptual.to(denoiser.device)
        return pairs, identity(source.model), perceptual

    return Prepared(made, [note], source.vae if perceptual else None)
