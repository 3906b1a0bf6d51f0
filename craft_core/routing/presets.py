"""The published ways of splitting a UNet into content and style layers, as data.

CRAFT-LoRA (2026), arXiv:2602.18936, Sec. 3.4.1 and Table 4; B-LoRA (Frenkel et al. 2024),
arXiv:2403.14572; DuoLoRA (2025), arXiv:2504.13206; K-LoRA (Ouyang et al. 2025), arXiv:2502.18461.
A preset's text is what a user would type; layer_sets.py reads both the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Rule = Literal["patterns", "all", "resolution", "auto"]


@dataclass(frozen=True)
class Preset:
    """A named split. source: paper, table or release, for the page. text: lines of patterns of a
    `patterns` preset, to start editing from; empty for a computed one."""

    key: str
    label: str
    source: str
    rule: Rule
    text: str = ""


_CRAFT_PAPER = """\
content: down_blocks.2.attentions.0
content: mid_block.attentions.0
content: up_blocks.0.attentions.1
content: up_blocks.1.attentions.0
content: up_blocks.2.attentions.0
style: down_blocks.0.attentions.0
style: down_blocks.1.resnets.0
style: mid_block.resnets.1
style: down_blocks.0.resnets.1
style: down_blocks.1.attentions.1
"""

_CRAFT_RELEASE = """\
content: up_blocks.0.attentions.0
content: down_blocks.0
content: down_blocks.1
content: mid_block
style: up_blocks.0.attentions.1
style: up_blocks.1
style: up_blocks.2
"""

_B_LORA = """\
content: up_blocks.0.attentions.0
style: up_blocks.0.attentions.1
"""

_ALL = (
    Preset(
        "craft-paper",
        "CRAFT (paper)",
        "CRAFT-LoRA, arXiv:2602.18936, Table 4. SDXL lacks two of its blocks, SD1.x one",
        "patterns",
        _CRAFT_PAPER,
    ),
    Preset(
        "craft-release",
        "CRAFT (authors' release)",
        "The default blocks in CRAFT-LoRA's released code, which differ from its Table 4",
        "patterns",
        _CRAFT_RELEASE,
    ),
    Preset(
        "b-lora",
        "B-LoRA's two blocks",
        "B-LoRA, arXiv:2403.14572: blocks W4 (content) and W5 (style) of SDXL",
        "patterns",
        _B_LORA,
    ),
    Preset(
        "duolora-prior",
        "By resolution (DuoLoRA)",
        "DuoLoRA, arXiv:2504.13206, layer prior: below 32 content, from 32 on style, at 512 px",
        "resolution",
    ),
    Preset(
        "auto",
        "By energy, any model",
        "Ours, after K-LoRA, arXiv:2502.18461: the LoRA with the larger share of top-K energy",
        "auto",
    ),
    Preset(
        "all",
        "No restriction",
        "Ours: every branch on every layer it adapts (the plain merge's layers)",
        "all",
    ),
)

PRESETS: Mapping[str, Preset] = {preset.key: preset for preset in _ALL}
