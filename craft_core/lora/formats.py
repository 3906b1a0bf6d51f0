"""What the keys of a LoRA file say: endings of the known formats, and kinds refused by name.

A key is a stem (which layer, see keys.py) and an ending (which part of the update). Known are
kohya and LyCORIS (lora_down / lora_up / lora_mid, hada_*), diffusers before PEFT (_lora.down,
.lora.down, lora_linear_layer.down), and PEFT (lora_A / lora_B, with or without adapter name).
PEFT's A is the down factor, B the up factor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


def _ending(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern})\Z")


def _factor(part: str, letter: str) -> re.Pattern[str]:
    return _ending(
        rf"\.lora_{part}\.weight"
        rf"|[._]lora\.{part}\.weight"
        rf"|\.lora_linear_layer\.{part}\.weight"
        rf"|\.lora_{letter}(?:\.[^.]+)?\.weight"
        rf"|\.lora_{letter}"
    )


_PARTS: dict[str, re.Pattern[str]] = {
    "down": _factor("down", "A"),
    "up": _factor("up", "B"),
    "mid": _ending(r"\.lora_mid\.weight"),
    "alpha": _ending(r"(?:[._]lora)?\.alpha"),
    "hada": _ending(r"\.hada_(w[12]_[ab]|t[12])"),
}
_REFUSED: dict[str, re.Pattern[str]] = {
    "DoRA": _ending(r"\.dora_scale|\.lora_magnitude_vector(\.[^.]+)*"),
    "LoKr": _ending(r"\.lokr_(w[12](_[ab])?|t[12])"),
    "OFT or BOFT": _ending(r"\.(oft|boft)_\w+(\.[^.]+)*|\.rescale"),
    "GLoRA": _ending(r"\.([ab][12]|bm[12]?)\.weight"),
    "IA3": _ending(r"\.on_input|\.ia3_l(\.[^.]+)*"),
    "AdaLoRA": _ending(r"\.lora_E(\.[^.]+)*|\.ranknum(\.[^.]+)*"),
    "VeRA": _ending(r"\.vera_lambda_[bd](\.[^.]+)*"),
    "full weight difference": _ending(r"\.diff"),
    "bias difference": _ending(r"\.diff_b|\.lora_(A|B|up|down)(\.[^.]+)?\.bias"),
    "replaced weight": _ending(r"\.set_weight"),
    "widened weight": _ending(r"\.reshape_weight"),
    "norm difference": _ending(r"\.[wb]_norm"),
    "embedding LoRA": _ending(r"\.lora_embedding_[AB](\.[^.]+)*"),
}
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


@dataclass(frozen=True)
class Key:
    """A key taken apart. part: "down", "up", "mid", "alpha" or a hada tensor ("w1_a", "t2")."""

    stem: str
    part: str


def split_key(key: str) -> Key | None:
    """The key's stem and part; None if its ending is of no format that can be carried."""
    for part, pattern in _PARTS.items():
        found = pattern.search(key)
        if found:
            return Key(key[: found.start()], found[1] if part == "hada" else part)
    return None


def refused_kind(key: str) -> str | None:
    """The kind of update no low-rank factors are built for, read off the key's ending."""
    return next((kind for kind, pattern in _REFUSED.items() if pattern.search(key)), None)


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
