"""The ways of splitting a model into content and style layers, a record each, with its source.

Those of one family of models are in its data file (craft_core/families); these two are for all:
K-LoRA (Ouyang et al. 2025), arXiv:2502.18461, and no restriction. Patterns are those a user would
type (layer_sets.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..families import PRESETS as OF_FAMILIES
from ..types import ROLES

PresetRule = Literal["patterns", "all", "resolution", "auto"]


@dataclass(frozen=True)
class Preset:
    """A named split. source: paper, table or release, for the page. content, style: patterns;
    empty for a split that a rule computes, `auto` from the LoRAs and the others from the model."""

    key: str
    label: str
    source: str
    content: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    rule: PresetRule = "patterns"

    @property
    def text(self) -> str:
        """Lines of patterns, to start editing from."""
        return "".join(f"{role}: {one}\n" for role in ROLES for one in getattr(self, role))


_TABLE = (
    *(
        Preset(one.key, one.label, one.source, one.content, one.style, one.rule)
        for one in OF_FAMILIES
    ),
    Preset(
        "auto",
        "By energy, any model",
        "Ours, after K-LoRA, arXiv:2502.18461: the LoRA with the larger share of top-K energy",
        rule="auto",
    ),
    Preset(
        "all",
        "No restriction",
        "Ours: every branch on every layer it adapts (the plain merge's layers)",
        rule="all",
    ),
)

PRESETS: Mapping[str, Preset] = {preset.key: preset for preset in _TABLE}
OF_MODEL = tuple(key for key, preset in PRESETS.items() if preset.rule != "auto")
"""The presets whose layers follow from the model alone, without LoRAs."""
