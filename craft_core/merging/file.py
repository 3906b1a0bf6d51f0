"""The file that a bake ends in: its tensors, and metadata that says how to make it again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..lora import write_lora
from ..lora.text_encoder import TextPart
from ..registry import Method
from ..types import Factors, Moment, Role
from .bake import Baked, Writing, totals


@dataclass(frozen=True)
class Source:
    """A LoRA file that went in. sha256: of the whole file."""

    name: str
    role: Role
    strength: float
    sha256: str

    def __str__(self) -> str:
        return f"{self.role} {self.name} at {self.strength:g}"


@dataclass(frozen=True)
class Recipe:
    """What was asked for. moment: where the method depends on it, else None."""

    method: Method
    knobs: Mapping[str, Any]
    sources: Sequence[Source]
    writing: Writing
    moment: Moment | None = None
    layer_sets: str = ""

    def settings(self) -> dict[str, str]:
        """Metadata: text only, as safetensors has it."""
        told = {
            "craft_fused": self.method.key,
            "craft_fused_settings": json.dumps(dict(self.knobs), sort_keys=True),
            "craft_fused_sources": json.dumps([vars(one) for one in self.sources]),
            "craft_fused_rank": str(self.writing.rank),
        }
        if self.layer_sets:
            told["craft_fused_layer_sets"] = self.layer_sets
        if self.moment is not None:
            told["craft_fused_progress"] = f"{self.moment.progress:g}"
            told["craft_fused_steps"] = str(self.moment.steps)
        return told


@dataclass(frozen=True)
class Fused:
    """Ready to be written. report: a few lines for the user."""

    layers: Mapping[str, Factors]
    text: TextPart
    metadata: Mapping[str, str]
    report: str

    def write(self, path: Path, stems: Mapping[str, str] | None = None) -> None:
        """stems: as in write_lora. The file appears whole or not at all."""
        write_lora(path, self.layers, self.text.tensors, self.metadata, stems=stems)


def fused(
    recipe: Recipe, baked: Iterable[Baked | None], text: TextPart, notes: Sequence[str] = ()
) -> Fused:
    """Run the bake to its end. notes: further lines for the report.

    Raises CraftError if no layer remains, and whatever the bake raises.
    """
    found = [one for one in baked if one is not None]
    whole = totals(found)
    told = {
        "craft_fused_error": f"{whole.error:.3e}",
        "craft_fused_worst_error": f"{whole.worst:.3e}",
    }
    if text.matrices:
        told["craft_fused_text_encoder"] = "sum"
    lines = [f"Fused by {recipe.method.key}: {', '.join(map(str, recipe.sources))}", str(whole)]
    if recipe.moment is not None:
        moment = recipe.moment
        lines.append(f"As at progress {moment.progress:g} of {moment.steps} steps")
    if text.matrices:
        lines.append(f"Text encoder: matrices added up exactly: {text.matrices}")
    return Fused(
        {one.path: one.factors for one in found}, text, recipe.settings() | told,
        "\n".join([*lines, *notes]),
    )  # fmt: skip


def moves(at: Any, steps: int) -> bool:
    """Whether gates change with progress. at: Gates.at."""
    first = at(Moment(0.0, steps))
    return any(not first.equal(at(Moment(i / (steps - 1), steps))) for i in range(1, steps))
