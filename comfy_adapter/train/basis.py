"""What the basis alone needs: pairs, and the VGG-19 of its perceptual term."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths

from ...craft_core.registry import Method
from ...craft_core.training import Denoiser, Pairs
from ...craft_core.training.perceptual import read_vgg
from ...craft_core.training.slots import NO_FILE
from ...craft_core.training.targets import trainable
from ..engine.modules import model_layers
from ..model.basis import require_unlimited
from .train import FilledSlots, ModelParts, Prepared, datasets, identity

VGG = "vgg"  # a folder of the host's models


def read_pairs(
    source: ModelParts, method: Method, filled: FilledSlots, settings: Mapping[str, Any]
) -> Prepared:
    """Pair i is content image i with style image i."""
    require_unlimited(source.model, trainable(model_layers(source.model)))
    vgg = filled.choices[VGG]
    perceptual, note = None, "No VGG-19 file: trained without the perceptual term."
    if vgg != NO_FILE and settings["perceptual_weight"]:
        perceptual, note = read_vgg(_vgg_path(vgg)), f"Perceptual term: {vgg}"
    data = datasets(source, method, filled)
    pairs = Pairs(data["content"], data["style"])

    def made(denoiser: Denoiser) -> tuple[Any, ...]:
        if perceptual is not None:
            perceptual.to(denoiser.device)
        return pairs, identity(source.model), perceptual

    return Prepared(made, [note], source.vae if perceptual else None)


def vgg_files() -> list[str]:
    """What the menu offers: none, and the files of models/vgg."""
    _register_vgg()
    return [NO_FILE, *folder_paths.get_filename_list(VGG)]


def _vgg_path(name: str) -> Path:
    _register_vgg()
    return Path(folder_paths.get_full_path_or_raise(VGG, name))


def _register_vgg() -> None:
    folder_paths.add_model_folder_path(VGG, str(Path(folder_paths.models_dir) / VGG))
    folder_paths.folder_names_and_paths[VGG][1].add(".safetensors")
