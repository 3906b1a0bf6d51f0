"""The published ways of splitting a model into content and style layers, a record each.

CRAFT-LoRA (2026), arXiv:2602.18936, Sec. 3.4.1 and Table 4; B-LoRA (Frenkel et al. 2024),
arXiv:2403.14572; DuoLoRA (2025), arXiv:2504.13206; K-LoRA (Ouyang et al. 2025), arXiv:2502.18461.
To add one: a record with its source. Its patterns are those a user would type (layer_sets.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
    Preset(
        "craft-paper",
        "CRAFT (paper)",
        "CRAFT-LoRA, arXiv:2602.18936, Table 4. SDXL lacks two of its blocks, SD1.x one",
        content=(
            "down_blocks.2.attentions.0",
            "mid_block.attentions.0",
            "up_blocks.0.attentions.1",
            "up_blocks.1.attentions.0",
            "up_blocks.2.attentions.0",
        ),
        style=(
            "down_blocks.0.attentions.0",
            "down_blocks.1.resnets.0",
            "mid_block.resnets.1",
            "down_blocks.0.resnets.1",
            "down_blocks.1.attentions.1",
        ),
    ),
    Preset(
        "craft-release",
        "CRAFT (authors' release)",
        "The default blocks in CRAFT-LoRA's released code, which differ from its Table 4",
        content=("up_blocks.0.attentions.0", "down_blocks.0", "down_blocks.1", "mid_block"),
        style=("up_blocks.0.attentions.1", "up_blocks.1", "up_blocks.2"),
    ),
    Preset(
        "b-lora",
        "B-LoRA's two blocks",
        "B-LoRA, arXiv:2403.14572: blocks W4 (content) and W5 (style) of SDXL",
        content=("up_blocks.0.attentions.0",),
        style=("up_blocks.0.attentions.1",),
    ),
    Preset(
        "duolora-prior",
        "By resolution (DuoLoRA)",
        "DuoLoRA, arXiv:2504.13206, layer prior: below 32 content, from 32 on style, at 512 px",
        rule="resolution",
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
