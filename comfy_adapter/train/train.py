"""What every training on a MODEL of the host is given and gives back, and what its file tells."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...craft_core.errors import CraftError, listed
from ...craft_core.families import UNTRAINED
from ...craft_core.file_hash import file_hash
from ...craft_core.messages import UNMATCHED_PATTERNS
from ...craft_core.registry import Method
from ...craft_core.routing.layer_sets import resolve
from ...craft_core.routing.presets import PRESETS
from ...craft_core.training import Dataset, Denoiser, StepCallback, Training
from ...craft_core.training.loop import state_metadata
from ...craft_core.training.sizes import Fit
from ...craft_core.training.slots import PictureSlot
from ...craft_core.types import ROLES, Role
from ..engine.engine import is_routed
from ..engine.modules import model_layers
from ..model.lora_files import BranchFile
from .data import ExampleEncoder, dataset
from .precision import AUTO, PRECISIONS, Precision, decide
from .run import SavePlace, StoppedTraining, run_training

CANCEL = comfy.model_management.throw_exception_if_processing_interrupted


@dataclass(frozen=True)
class ModelParts:
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
        kind = type(self.model.model.model_config).__name__
        if kind in UNTRAINED:
            raise CraftError(
                f"The model is a {kind}, which no picture with a caption teaches anything",
                "The README's table of models says which are not trained, and why",
                "Train on another model",
            )


@dataclass(frozen=True)
class How:
    """save_as: a name inside the output folder. resume: go on from what a stopped training of
    that name left. precision: one of precision.CHOICES. checkpointing: see open_denoiser.
    warn: where a warning goes before the training begins. kept: told what an interrupt left.
    sample_every, show: as with_samples has them; 0 for no pictures."""

    save_as: str
    resume: bool = False
    precision: str = AUTO
    checkpointing: bool = True
    warn: Callable[[str], None] = logging.getLogger("craft").warning
    kept: Callable[[StoppedTraining], None] = lambda kept: None
    sample_every: int = 0
    show: Callable[[Tensor], None] = lambda picture: None


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


@dataclass(frozen=True)
class FilledSlots:
    """The data slots of a training (craft_core/training/slots.py), filled on the page or by a
    command: pictures by key, only those that were given; LoRAs; the other slots by key. fit: how
    pictures are made to fit the model."""

    pictures: Mapping[str, Captioned]
    loras: Sequence[BranchFile] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)


@dataclass(frozen=True)
class Prepared:
    """What a reader makes of filled slots. data: the recipe's positional arguments after the
    denoiser, asked for once the model is open. notes: lines of the report. vae: kept at hand where
    the training needs it. tells: whether the report tells the settings. metadata: of the file."""

    data: Callable[[Denoiser], tuple[Any, ...]]
    notes: Sequence[str] = ()
    vae: Any = None
    tells: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)


def is_mirrored(settings: Mapping[str, Any]) -> bool:
    """Whether a training of these settings mirrors pictures."""
    return bool(settings.get("mirror"))


def datasets(
    source: ModelParts, method: Method, filled: FilledSlots, settings: Mapping[str, Any]
) -> dict[str, Dataset]:
    """The pictures that were given, encoded, by the keys of their slots."""
    encoder, mirror = ExampleEncoder(source.model, source.clip, source.vae), is_mirrored(settings)
    return {
        slot.key: dataset(encoder, own.images, own.captions, slot.noun, CANCEL, mirror)
        for slot in method.traits.slots.of(PictureSlot)
        if (own := filled.pictures.get(slot.key)) is not None
    }


def precision_of(how: How, place: SavePlace, model: Any) -> Precision:
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
    place: SavePlace,
    how: How,
    precision: Precision,
    watch: StepCallback,
    prepared: Prepared,
) -> Trained:
    """Run to the end, saved; the report has the notes that are not empty, and the settings."""
    done = run_training(
        training, place, how.resume, precision, watch, how.warn, how.kept, prepared.metadata
    )
    lines = [done.report, *filter(None, prepared.notes), *[_in_words(training)] * prepared.tells]
    return Trained(done.place.name, done.place.path, training.losses, "\n".join(lines))


def _in_words(training: Training) -> str:
    """The settings in a line, hashes of files short."""
    settings = training.settings()
    settings = {"learning_rate": settings.pop("rate"), **settings}
    named = ", ".join(f"{name} {_short(value)}" for name, value in settings.items() if value)
    return f"Settings: {named}"


def _short(value: str) -> str:
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", value)


def layers_of(layer_sets: str, model: Any) -> tuple[dict[Role, frozenset[str]], str]:
    """(each role's layers of this model, a note on patterns of a preset it does not have)."""
    sets = resolve(layer_sets.strip(), model_layers(model))
    if sets.unmatched and layer_sets.strip() not in PRESETS:
        raise CraftError(
            UNMATCHED_PATTERNS.format(patterns=listed(sets.unmatched)),
            "Each pattern names layers of this model",
            "Correct or remove them",
        )
    missing = f"Patterns of the preset this model has no layers for: {listed(sets.unmatched)}"
    note = missing if sets.unmatched else ""
    return dict(zip(ROLES, sets.of(ROLES), strict=True)), note


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


def lora_state(path: Path) -> dict[str, Tensor]:
    """A saved LoRA as the host's LORA_MODEL: its tensors by their file names."""
    return comfy.utils.load_torch_file(str(path), safe_load=True)
