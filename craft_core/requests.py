"""What a command asks of the host: plain values, and the one interface that answers them.

comfy_adapter/headless.py is that interface's only implementation. It knows these classes; the
commands know it by this protocol alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .registry import Method
from .training import Training
from .types import LoraFile, Role

Watch = Callable[[Training], None]  # called after each step; raises KeyboardInterrupt to stop
LayerWatch = Callable[[int, int], None]  # called after each layer with (done, layers)


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
class Job:
    """What every training is told besides its data and knobs.

    name: of the saved file, inside its folder of the output directory. size: (width, height) that
    every picture is resized and cropped to, None for as they are.
    """

    model: ModelFiles
    name: str
    resume: bool = False
    precision: str = "auto"
    checkpointing: bool = True
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class LoraData:
    """layer_sets: a preset's key, or lines of patterns."""

    learned: Sequence[Picture]
    prior: Sequence[Picture]
    role: Role
    layer_sets: str


@dataclass(frozen=True)
class HalfData:
    """partners: pictures of the other role, if any. layer_sets: a preset's key, or patterns."""

    learned: Sequence[Picture]
    partners: Sequence[Picture]
    role: Role
    layer_sets: str


@dataclass(frozen=True)
class BasisData:
    """Every content picture is paired with every style picture. vgg: a file, "" for none."""

    content: Sequence[Picture]
    style: Sequence[Picture]
    vgg: str = ""


@dataclass(frozen=True)
class Expert:
    """A LoRA that is not trained but learned about: a file by its listed name or path."""

    file: str
    role: Role
    strength: float = 1.0


@dataclass(frozen=True)
class EncoderData:
    """learned: what the LoRAs were trained for, other: what they were not; phrases marked."""

    learned: Sequence[Picture]
    other: Sequence[Picture]
    experts: Sequence[Expert]
    layer_sets: str
    allow_unmatched: bool = False


@dataclass(frozen=True)
class MergeData:
    """content, style: what the LoRAs of that role were trained on. fused_prompt: the content in
    the style, a line for each content LoRA or one for all. method: key of a learned merge."""

    content: Sequence[Picture]
    style: Sequence[Picture]
    experts: Sequence[Expert]
    fused_prompt: str
    method: str
    allow_unmatched: bool = False


@dataclass(frozen=True)
class FuseData:
    """LoRAs to bake into the file `path`. model: None where the files' own names must do.

    progress, steps: the moment at which a method that moves with time is taken. rank: 0 for
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
class Result:
    path: Path
    report: str


@dataclass(frozen=True)
class Read:
    """LoRA files against a model. shapes: the model's layers in depth order, and their shapes."""

    shapes: Mapping[str, tuple[int, ...]]
    files: Sequence[LoraFile]


class Stopped(Exception):
    """Ctrl-C stopped a training after it had saved what it learned so far."""

    def __init__(self, path: Path, state: Path) -> None:
        super().__init__(
            f"Stopped. The partial result, which loads like a whole one: {path}\n"
            f"What it goes on from: {state}\n"
            "Run the same command with --resume to go on."
        )
        self.path, self.state = path, state


class Headless(Protocol):
    """The host, entered. Every training raises CraftError with nothing half-written, or Stopped."""

    def begin(self, output: Path | None, node_packs: Sequence[Path]) -> None:
        """Once, first: the output directory (None: the host's own), the user's model folders, and
        node packs that models need."""
        ...

    def train_basis(
        self, job: Job, data: BasisData, knobs: Mapping[str, Any], watch: Watch
    ) -> Result: ...

    def train_lora(
        self, job: Job, data: LoraData, knobs: Mapping[str, Any], watch: Watch
    ) -> Result: ...

    def train_b4m(
        self, job: Job, data: HalfData, knobs: Mapping[str, Any], watch: Watch
    ) -> Result: ...

    def train_encoder(
        self, job: Job, data: EncoderData, knobs: Mapping[str, Any], watch: Watch
    ) -> Result: ...

    def train_merge(
        self, job: Job, data: MergeData, knobs: Mapping[str, Any], watch: Watch
    ) -> Result: ...

    def fuse(self, data: FuseData, watch: LayerWatch) -> Result: ...

    def read_loras(self, model: ModelFiles, files: Sequence[str]) -> Read: ...
