"""What the key names of a LoRA file reveal: text encoder or not, and the model's family."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TEXT_ENCODER = re.compile(
    r"(base_model\.model\.)*"
    r"(lora_(prior_)?te\d*_|lora_text_(encoder|model)|lycoris_te(\d*_|xt_(encoder|model))"
    r"|text_encoders?(_\d+)?[._]|te\d*[._]|text_model\.|cond_stage_model\.|conditioner\."
    r"|clip_[lgh]\.|t5xxl\.)"
)
# The first family with a name of its own wins; dots are read as underscores. Those of CLASSES only
# say what kind of network it is.
CLASSES = ("a UNet (SD1.x, SD2.x or SDXL)", "a diffusion transformer")
_FAMILIES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Flux", re.compile(r"(double|single)_blocks_\d|single_transformer_blocks_\d")),
    ("SD3", re.compile(r"joint_blocks_\d|norm1_context")),
    ("Wan", re.compile(r"(^|_)blocks_\d+_self_attn_")),
    (
        "SD1.x or SD2.x",
        re.compile(
            r"down_blocks_(0_attentions|3_)|up_blocks_(2_attentions|3_)"
            r"|input_blocks_([12]_1_|1[01]_)|output_blocks_([678]_1_|9_|1[01]_)"
        ),
    ),
    (
        "SDXL",
        re.compile(
            r"up_blocks_0_attentions|output_blocks_[0-2]_1_(?!conv)|(add|label)_emb"
            r"|(down|up|input|output|mid|middle)_block\w*_transformer_blocks_[1-9]"
        ),
    ),
    (CLASSES[0], re.compile(r"(down|up|input|output|mid|middle)_block")),
    (CLASSES[1], re.compile(r"transformer_blocks_\d|(^|_)(layers|blocks)_\d")),
)


def is_text_encoder(key: str) -> bool:
    """Whether the key belongs to a text encoder, in any naming."""
    return _TEXT_ENCODER.match(key) is not None


def family_of(names: Iterable[str]) -> str | None:
    """The model family that LoRA names or module paths look like ("SDXL"); None if unclear."""
    flat = [name.replace(".", "_") for name in names]
    for family, pattern in _FAMILIES:
        if any(pattern.search(name) for name in flat):
            return family
    return None
