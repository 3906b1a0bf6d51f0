"""The file that a bake ends in: its tensors, and metadata that says how to make it again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..lora import write_lora
from ..lora.formats import BiasDifference
from ..lora.text_encoder import TextPart
from ..registry import Method
from ..time import Moment
from ..types import Factors, Gates, LayerUpdate, Role
from .bake import Baked, Writing, totals


@dataclass(frozen=True)
class FuseSource:
    """A LoRA file that went in. sha256: of the whole file. layers: (in how many it acts, of how
    many that it adapts), for the report. own_layers: patterns of the only ones it may act on."""

    name: str
    role: Role
    strength: float
    sha256: str
    layers: tuple[int, int]
    own_layers: str = ""

    def __str__(self) -> str:
        acts, adapts = self.layers
        return f"{self.role} {self.name} at {self.strength:g}: acts in {acts} of {adapts} layers"

    def settings(self) -> dict[str, Any]:
        """What has to be given again to get the same source."""
        left_out = {"layers"} if self.own_layers else {"layers", "own_layers"}
        return {key: value for key, value in vars(self).items() if key not in left_out}


@dataclass(frozen=True)
class FuseSettings:
    """What was asked for. moment: where the method depends on it, else None."""

    method: Method
    knobs: Mapping[str, Any]
    sources: Sequence[FuseSource]
    writing: Writing
    moment: Moment | None = None
    layer_sets: str = ""

    def settings(self) -> dict[str, str]:
        """Metadata: text only, as safetensors has it."""
        metadata = {
            "craft_fused": self.method.key,
            "craft_fused_settings": json.dumps(dict(self.knobs), sort_keys=True),
            "craft_fused_sources": json.dumps([one.settings() for one in self.sources]),
            "craft_fused_rank": str(self.writing.rank),
        }
        if self.layer_sets:
            metadata["craft_fused_layer_sets"] = self.layer_sets
        if self.moment is not None:
            metadata["craft_fused_progress"] = f"{self.moment.progress:g}"
            metadata["craft_fused_steps"] = str(self.moment.steps)
        return metadata


@dataclass(frozen=True)
class Fused:
    """Ready to be written. layers: what is done to weights; biases: to biases. report: a few lines
    for the user. stems: as in write_lora, none for its own."""

    layers: Mapping[str, Factors]
    text: TextPart
    metadata: Mapping[str, str]
    report: str
    biases: Mapping[str, BiasDifference] = field(default_factory=dict)
    stems: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path, stems: Mapping[str, str] | None = None) -> None:
        """stems: others than its own. The file appears whole or not at all, and never over another:
        then Taken is raised."""
        stems = stems or self.stems or None
        layers: dict[str, list[LayerUpdate]] = {name: [one] for name, one in self.layers.items()}
        for name, bias in self.biases.items():
            layers.setdefault(name, []).append(bias)
        write_lora(path, layers, self.text.tensors, self.metadata, stems=stems, exclusive=True)


def fused(
    recipe: FuseSettings, baked: Iterable[Baked | None], text: TextPart, notes: Sequence[str] = ()
) -> Fused:
    """Run the bake to its end. notes: further lines for the report.

    Raises CraftError if no layer remains of LoRAs that have some, and whatever the bake raises.
    """
    found = [one for one in baked if one is not None]
    adapted = sum(one.layers[1] for one in recipe.sources)
    whole = totals(found, may_be_none=text.matrices > 0 and not adapted)
    errors = {
        "craft_fused_error": f"{whole.error:.3e}",
        "craft_fused_worst_error": f"{whole.worst:.3e}",
    }
    if text.matrices:
        errors["craft_fused_text_encoder"] = "sum"
        errors["craft_fused_text_encoder_error"] = f"{text.error:.3e}"
    return Fused(
        {one.path: one.factors for one in found if not one.of_bias}, text,
        recipe.settings() | errors, "\n".join([*_report(recipe, str(whole), text), *notes]),
        {one.path: BiasDifference(one.factors.delta().to(one.factors.up.dtype))
         for one in found if one.of_bias},
    )  # fmt: skip


def _report(recipe: FuseSettings, whole: str, text: TextPart) -> Iterator[str]:
    yield f"Fused by {recipe.method.key}: {whole}"
    if recipe.moment is not None:
        yield f"As at progress {recipe.moment.progress:g} of {recipe.moment.steps} steps"
    if recipe.layer_sets:
        yield f"Layer sets: {'; '.join(recipe.layer_sets.strip().splitlines())}"
    yield from map(str, recipe.sources)
    yield from text.notes()
    if text.matrices:
        of = "1 matrix" if text.matrices == 1 else f"{text.matrices} matrices"
        yield f"Text encoder: {of} added up; relative error {text.error:.2e}"
        parts = zip(recipe.sources, text.files, strict=True)
        idle = [one.name for one, taken in parts if taken and one.layers[1] and not one.layers[0]]
        if idle:
            yield (
                f"The text-encoder part of {', '.join(idle)} is in the file too, as the Router has "
                "it at every step"
            )


def moves(gates: Gates, steps: int) -> bool:
    """Whether gates change during a run of so many steps."""
    start, *later = (Moment(i / max(1, steps - 1), steps) for i in range(steps))
    table, share = gates.at(start), gates.share(start)
    return any(not table.equal(gates.at(one)) or share != gates.share(one) for one in later)
