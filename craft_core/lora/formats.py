"""What the keys of a LoRA file say: endings of the known formats, and kinds refused by name.

A key is a stem (which layer, see keys.py) and an ending (which part of the update). Known are
kohya and LyCORIS (lora_down / lora_up / lora_mid, hada_*), diffusers before PEFT (_lora.down,
.lora.down, lora_linear_layer.down), and PEFT (lora_A / lora_B, with or without adapter name).
In all of them the *down* factor comes first: PEFT's A is down, B is up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_DIRECTIONS = (("down", "A"), ("up", "B"))
_PARTS: dict[str, re.Pattern[str]] = {
    part: re.compile(
        rf"\.lora_{part}\.weight"
        rf"|[._]lora\.{part}\.weight"
        rf"|\.lora_linear_layer\.{part}\.weight"
        rf"|\.lora_{letter}(\.[^.]+)?\.weight"
        rf"|\.lora_{letter}"
    )
    for part, letter in _DIRECTIONS
}
_PARTS |= {
    "mid": re.compile(r"\.lora_mid\.weight"),
    "alpha": re.compile(r"\.alpha"),
    "hada": re.compile(r"\.hada_(w[12]_[ab]|t[12])"),
}
_REFUSED: dict[str, re.Pattern[str]] = {
    "DoRA": re.compile(r"\.dora_scale|\.lora_magnitude_vector(\.[^.]+)*"),
    "LoKr": re.compile(r"\.lokr_(w[12](_[ab])?|t[12])"),
    "OFT or BOFT": re.compile(r"\.(oft|boft)_\w+(\.[^.]+)*|\.rescale"),
    "GLoRA": re.compile(r"\.([ab][12]|bm)\.weight"),
    "IA3": re.compile(r"\.on_input|\.ia3_l(\.[^.]+)*"),
    "AdaLoRA": re.compile(r"\.lora_E(\.[^.]+)*|\.ranknum(\.[^.]+)*"),
    "VeRA": re.compile(r"\.vera_lambda_[bd](\.[^.]+)*"),
    "full weight difference": re.compile(r"\.diff"),
    "bias difference": re.compile(r"\.diff_b|\.lora_(A|B|up|down)(\.[^.]+)?\.bias"),
    "replaced weight": re.compile(r"\.set_weight"),
    "widened weight": re.compile(r"\.reshape_weight"),
    "norm difference": re.compile(r"\.[wb]_norm"),
    "embedding LoRA": re.compile(r"\.lora_embedding_[AB](\.[^.]+)*"),
}
_TEXT_ENCODER = re.compile(
    r"(base_model\.model\.)*"
    r"(lora_(prior_)?te\d*_|lora_text_encoder|lycoris_te|text_encoders?(_\d+)?[._]|te\d*[._]"
    r"|text_model\.|cond_stage_model\.|conditioner\.|clip_[lgh]\.|t5xxl\.)"
)
# Names of one family only, first match decides; dots are read as underscores.
_FAMILIES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Flux", re.compile(r"(double|single)_blocks_\d|single_transformer_blocks_\d")),
    ("SD3", re.compile(r"joint_blocks_\d|attn_add_[qkv]_proj|norm1_context")),
    ("Wan", re.compile(r"(^|_)blocks_\d+_(self|cross)_attn_")),
    (
        "SD1.x or SD2.x",
        re.compile(
            r"(down|input)_blocks_(0_attentions|[12]_1_|1[01]_)"
            r"|(up_blocks_(2_attentions|3_)|output_blocks_(6_1_t|6_1_p|7_1_|8_1_|9|1[01]))"
        ),
    ),
    (
        "SDXL",
        re.compile(
            r"down_blocks_2_attentions|up_blocks_0_attentions|add_embedding|label_emb"
            r"|input_blocks_[78]_1_|output_blocks_[0-2]_1_|mid(dle)?_block_\w*transformer_blocks_[1-9]"
        ),
    ),
    ("a UNet (SD1.x, SD2.x or SDXL)", re.compile(r"(down|up|input|output|mid|middle)_block")),
    ("a diffusion transformer", re.compile(r"transformer_blocks_\d|(^|_)(layers|blocks)_\d")),
)


@dataclass(frozen=True)
class Key:
    """A key taken apart. part: "down", "up", "mid", "alpha" or a hada tensor ("w1_a", "t2")."""

    stem: str
    part: str


def split_key(key: str) -> Key | None:
    """The key's stem and part; None if its ending is of no format that can be carried."""
    for part, pattern in _PARTS.items():
        found = _ending(pattern, key)
        if found:
            detail = found.group(1) if part == "hada" else part
            return Key(key[: found.start()], detail)
    return None


def refused_kind(key: str) -> str | None:
    """The kind of update that no low-rank factors can stand for, read off the key's ending."""
    return next((kind for kind, pattern in _REFUSED.items() if _ending(pattern, key)), None)


def is_text_encoder(key: str) -> bool:
    """Whether the key belongs to a text encoder, in any naming."""
    return _TEXT_ENCODER.match(key) is not None


def family_of(names: Iterable[str]) -> str | None:
    """The model family that LoRA names look like ("SDXL"), None if they tell nothing."""
    flat = [name.replace(".", "_") for name in names]
    for family, pattern in _FAMILIES:
        if any(pattern.search(name) for name in flat):
            return family
    return None


def _ending(pattern: re.Pattern[str], key: str) -> re.Match[str] | None:
    """The match of the pattern that reaches exactly to the key's end."""
    return next((found for found in pattern.finditer(key) if found.end() == len(key)), None)
