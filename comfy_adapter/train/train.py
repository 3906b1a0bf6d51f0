"""Train a basis or a LoRA on a MODEL of the host: what the nodes and the command line both call."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...craft_core.errors import CraftError, listed
from ...craft_core.routing.layer_sets import resolve
from ...craft_core.routing.presets import PRESETS
from ...craft_core.tensor_file import file_hash
from ...craft_core.training import TRAINING, Pairs, Pictures, Place, Training
from ...craft_core.training.loop import state_metadata
from ...craft_core.training.perceptual import read_vgg
from ...craft_core.training.targets import trainable
from ...craft_core.types import Role
from ..engine.engine import is_routed
from ..engine.modules import model_layers
from ..model.basis import FOLDER as BASES
from ..model.basis import require_unlimited
from ..model.lora_files import FOLDER as LORAS
from .data import Encoder, dataset
from .denoiser import opened
from .precision import AUTO, PRECISIONS, Precision, decide
from .run import Target, Watch, run, target

VGG = "vgg"  # a folder of the host's models, for the perceptual term
NO_VGG = "none"
CANCEL = comfy.model_management.throw_exception_if_processing_interrupted


@dataclass(frozen=True)
class Source:
    """What is trained on: the host's MODEL, its CLIP and its VAE."""

    model: Any
    clip: Any
    vae: Any

    def __post_init__(self) -> None:
        if is_routed(self.model):
            raise CraftError(
                "The model carries the branches of a Router",
                "A training needs the backbone alone",
                "Connect the model from before the Router",
            )


@dataclass(frozen=True)
class How:
    """save_as: a name inside the output folder. resume: go on from what a stopped training of
    that name left. precision: one of precision.CHOICES. checkpointing: see denoiser.opened.
    warn: where a warning goes before the training begins."""

    save_as: str
    resume: bool = False
    precision: str = AUTO
    checkpointing: bool = True
    warn: Callable[[str], None] = logging.getLogger("craft").warning


@dataclass(frozen=True)
class Captioned:
    """IMAGE batches (b, h, w, c), and a caption for each image or one for all."""

    images: Sequence[Tensor]
    captions: Sequence[str]


@dataclass(frozen=True)
class Trained:
    """name: the saved file as the host lists it. losses: one a step."""

    name: str
    path: Path
    losses: list[float]
    report: str


def train_lora(
    source: Source,
    learned: Captioned,
    prior: Captioned | None,
    role: Role,
    layer_sets: str,
    knobs: Mapping[str, Any],
    how: How,
    watch: Watch,
) -> Trained:
    """A content or style LoRA on its role's layers: output/loras/<save_as>_00001_.safetensors.

    layer_sets: a preset's key or lines of patterns. knobs: of the recipe `lora`.
    """
    settings = TRAINING["lora"].knobs(dict(knobs))
    layers, note = layers_of([role], layer_sets, source.model)
    place = target(how.save_as, LORAS, role)
    encoder = Encoder(source.model, source.clip, source.vae)
    data = dataset(encoder, learned.images, learned.captions, tick=CANCEL)
    kept = dataset(encoder, prior.images, prior.captions, "prior", CANCEL) if prior else None
    precision = precision_of(how, place, source.model)
    with opened(source.model, None, precision.name, how.checkpointing) as denoiser:
        training = TRAINING["lora"].function(
            denoiser, Pictures(data, kept), Place(role, layers, one_line(layer_sets)),
            identity(source.model), **settings,
        )  # fmt: skip
        return trained(training, place, how, precision, watch, [note])


def train_basis(
    source: Source,
    content: Captioned,
    style: Captioned,
    vgg: str,
    knobs: Mapping[str, Any],
    how: How,
    watch: Watch,
) -> Trained:
    """A rank-limited basis from pairs: output/craft_bases/<save_as>_00001_.safetensors.

    Pair i is content image i with style image i. vgg: a file of models/vgg, or "none".
    """
    settings = TRAINING["basis"].knobs(dict(knobs))
    require_unlimited(source.model, trainable(model_layers(source.model)))
    place = target(how.save_as, BASES)
    perceptual, note = None, "No VGG-19 file: trained without the perceptual term."
    if vgg != NO_VGG and settings["perceptual_weight"]:
        perceptual, note = read_vgg(_vgg_path(vgg)), f"Perceptual term: {vgg}"
    encoder = Encoder(source.model, source.clip, source.vae)
    pairs = Pairs(
        dataset(encoder, content.images, content.captions, "content", CANCEL),
        dataset(encoder, style.images, style.captions, "style", CANCEL),
    )
    vae = source.vae if perceptual else None
    precision = precision_of(how, place, source.model)
    with opened(source.model, vae, precision.name, how.checkpointing) as denoiser:
        if perceptual is not None:
            perceptual.to(denoiser.device)
        training = TRAINING["basis"].function(
            denoiser, pairs, identity(source.model), perceptual, **settings
        )
        return trained(training, place, how, precision, watch, [note])


def precision_of(how: How, place: Target, model: Any) -> Precision:
    """What this training computes in; the user is warned where that is slow."""
    begun = ""
    if how.resume and place.state.is_file():
        begun = state_metadata(place.state).get("precision", "")
    precision = decide(how.precision, model.load_device, begun if begun in PRECISIONS else "")
    if precision.warning:
        how.warn(precision.warning)
    return precision


def trained(
    training: Training,
    place: Target,
    how: How,
    precision: Precision,
    watch: Watch,
    notes: Sequence[str],
) -> Trained:
    """Run to the end, saved; the report tells the settings and the notes that are not empty."""
    done = run(training, place, how.resume, precision, watch)
    lines = [done.report, *filter(None, notes), _told(training)]
    return Trained(done.place.name, done.place.path, training.losses, "\n".join(lines))


def _told(training: Training) -> str:
    """The settings in a line, hashes of files short."""
    told = training.settings()
    told = {"learning_rate": told.pop("rate"), **told}
    return ", ".join(f"{name} {_short(value)}" for name, value in told.items() if value)


def _short(value: str) -> str:
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", value)


def layers_of(roles: Sequence[Role], layer_sets: str, model: Any) -> tuple[frozenset[str], str]:
    """(the roles' layers of this model, a note on patterns of a preset it does not have)."""
    sets = resolve(layer_sets.strip(), model_layers(model))
    if sets.unmatched and layer_sets.strip() not in PRESETS:
        raise CraftError(
            f"These layer patterns match nothing: {listed(sets.unmatched)}",
            "Each pattern names layers of this model",
            "Correct or remove them",
        )
    missing = f"Patterns of the preset this model has no layers for: {listed(sets.unmatched)}"
    note = missing if sets.unmatched else ""
    return frozenset().union(*sets.of(roles)), note


def one_line(layer_sets: str) -> str:
    """One line for the file's metadata."""
    return "; ".join(line.strip() for line in layer_sets.splitlines() if line.strip())


def base_model_hash(model: Any) -> str:
    """SHA-256 of the file the MODEL was loaded from, "" where that is not known."""
    init = model.cached_patcher_init
    path = init[1][0] if init and init[1] else None
    if not isinstance(path, str) or not Path(path).is_file():
        return ""
    return file_hash(path)


def identity(model: Any) -> str:
    """The MODEL's file by hash, and what is patched onto its weights, by hash too."""
    if not model.patches:
        return base_model_hash(model)
    found = hashlib.sha256()
    for key in sorted(model.patches):
        found.update(key.encode())
        _feed(found, model.patches[key])
    return f"{base_model_hash(model)} with patches {found.hexdigest()[:16]}"


def _feed(found: Any, value: Any) -> None:
    """A patch of the host, whatever it is made of, into a hash."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().flatten().view(torch.uint8)
        found.update(plain.numpy().tobytes())
    elif isinstance(value, list | tuple):
        for one in value:
            _feed(found, one)
    elif hasattr(value, "weights"):  # an adapter of the host's, or ours
        _feed(found, (type(value).__name__, value.weights))
    elif isinstance(value, str | int | float | bool | None):
        found.update(repr(value).encode())


def vgg_files() -> list[str]:
    """What the menu offers: none, and the files of models/vgg."""
    _register_vgg()
    return [NO_VGG, *folder_paths.get_filename_list(VGG)]


def _vgg_path(name: str) -> Path:
    _register_vgg()
    return Path(folder_paths.get_full_path_or_raise(VGG, name))


def _register_vgg() -> None:
    folder_paths.add_model_folder_path(VGG, str(Path(folder_paths.models_dir) / VGG))
    folder_paths.folder_names_and_paths[VGG][1].add(".safetensors")


def lora_state(path: Path) -> dict[str, Tensor]:
    """A saved LoRA as the host's LORA_MODEL: its tensors by their file names."""
    return comfy.utils.load_torch_file(str(path), safe_load=True)
