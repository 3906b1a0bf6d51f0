"""What a command asks of the host: plain values, and the one interface that answers them.

comfy_adapter/headless.py is that interface's only implementation. It knows these classes; the
commands know it by this protocol alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # commands read this module on a Python without torch
    from .registry import Method
    from .training import StepCallback
    from .types import LoraFile, Role

LayerCallback = Callable[[int, int], None]
"""Called after each layer with (layers done, layers); it may raise to stop."""


@dataclass(frozen=True)
class ModelFiles:
    """Each a name as the host lists it, or a path; empty where it is not given.

    checkpoint: model, text encoder and VAE; the others replace its parts. clip: one text encoder
    or several. basis: projected out of the model's weights (a rank-limited backbone).
    """

    checkpoint: str = ""
    unet: str = ""
    clip: tuple[str, ...] = ()
    clip_type: str = ""
    vae: str = ""
    basis: str = ""


@dataclass(frozen=True)
class Picture:
    path: Path
    caption: str


@dataclass(frozen=True)
class TrainingOptions:
    """What every training is given besides its data and knobs.

    name: of the saved file, inside its folder of the output directory. size, resize: how pictures
    are made to fit the model, as in training/sizes.py.
    """

    model: ModelFiles
    name: str
    resume: bool = False
    precision: str = "auto"
    checkpointing: bool = True
    size: tuple[int, int] | None = None
    resize: str = "area"


@dataclass(frozen=True)
class Expert:
    """A LoRA that is not trained but learned about: a file by its listed name or path."""

    file: str
    role: Role
    strength: float = 1.0


@dataclass(frozen=True)
class TrainData:
    """The filled data slots of a training (craft_core/training/slots.py), by their keys.

    recipe: the key of a training recipe or of a learned merge. choices: what the slots other than
    pictures and LoRAs hold: the role, layer sets, a text, the name of a file.
    """

    recipe: str
    pictures: Mapping[str, Sequence[Picture]]
    experts: Sequence[Expert] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FuseData:
    """LoRAs to bake into the file `path`. model: None to match layers by the files' names.

    progress, steps: the moment at which a method that changes with time is evaluated. rank: 0 for
    exact. layer_sets: a preset's key, or lines of patterns.
    """

    model: ModelFiles | None
    experts: Sequence[Expert]
    method: Method
    knobs: Mapping[str, Any]
    layer_sets: str
    progress: float
    steps: int
    rank: int
    save_as: str
    path: Path
    allow_unmatched: bool = False


@dataclass(frozen=True)
class SavedFile:
    path: Path
    report: str


@dataclass(frozen=True)
class Read:
    """LoRA files against a model. shapes: the model's layers in depth order, and their shapes."""

    shapes: Mapping[str, tuple[int, ...]]
    files: Sequence[LoraFile]


class Stopped(Exception):
    """Ctrl-C stopped a training after it had saved what it learned so far. state: what it goes on
    from; None where that could not be saved."""

    def __init__(self, path: Path, state: Path | None) -> None:
        on = f"What it goes on from: {state}\nRun the same command with --resume to go on."
        super().__init__(
            f"Stopped. The partial result, which loads like a whole one: {path}\n"
            + (on if state else "It cannot be resumed: its state was not saved.")
        )
        self.path, self.state = path, state


class Headless(Protocol):
    """The started host. A training raises CraftError with nothing half-written, or Stopped."""

    def begin(self, output: Path | None, node_packs: Sequence[Path]) -> None:
        """Once, first: the output directory (None: the host's own), the user's model folders, and
        node packs that models need."""
        ...

    def train(
        self, job: TrainingOptions, data: TrainData, knobs: Mapping[str, Any], watch: StepCallback
    ) -> SavedFile: ...

    def fuse(self, data: FuseData, watch: LayerCallback) -> SavedFile: ...

    def read_loras(self, model: ModelFiles, files: Sequence[str]) -> Read: ...
