"""What the key names of a LoRA file reveal: text encoder or not, and the model's family."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .keys import bare_name

_TEXT_ENCODER = re.compile(
    r"(base_model\.model\.)*"
    r"(lora_(prior_)?te\d*_|lora_text_(encoder|model)|lycoris_te(\d*_|xt_(encoder|model))"
    r"|text_encoders?(_\d+)?[._]|te\d*[._]|text_model\.|cond_stage_model\.|conditioner\."
    r"|clip_[lgh]\.|t5xxl\.)"
)
# The first family with a name of its own wins; names are read as keys.bare_name has them. Those
# of CLASSES only say what kind of network it is.
CLASSES = ("a UNet (SD1.x, SD2.x or SDXL)", "a diffusion transformer")
_FAMILIES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("HunyuanVideo", re.compile(r"(individual_)?token_refiner|(img|txt)_attn_[qkv](_|\Z)")),
    ("Chroma", re.compile(r"distilled_guidance_layer")),
    ("Flux.2", re.compile(r"(double|single)_stream_modulation")),
    ("Flux", re.compile(r"(double|single)_blocks_\d|single_transformer_blocks_\d")),
    ("SD3", re.compile(r"joint_blocks_\d|norm1_context")),
    (
        "Cosmos Predict 2 or Anima",
        re.compile(r"adaln_modulation_(self_attn|cross_attn|mlp)|blocks_\d+_self_attn_[qkv]_proj"),
    ),
    ("Z-Image or Lumina 2", re.compile(r"(context|noise)_refiner|(^|_)layers_\d+_attention_")),
    ("Qwen-Image", re.compile(r"transformer_blocks_\d+_(img|txt)_(mlp|mod)")),
    (
        "Wan",
        re.compile(
            r"(^|_)blocks_\d+_self_attn_[qkvo](?!_proj)(_|\Z)"
            r"|(?<!transformer_)blocks_\d+_attn[12]_to_"
        ),
    ),
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

_BLOCKS_OF = {"Flux": ("Flux.2", "Chroma", "HunyuanVideo")}  # and which others have its blocks
EMBEDDING_ADVICE = (
    "Use the embedding as a file of its own in models/embeddings, and its name in the prompt"
)


def share_names(one: str, other: str) -> bool:
    """Whether names of one family can be those of the other: it is the same, or has its blocks."""
    pairs = ((one, other), (other, one))
    return one == other or any(b in _BLOCKS_OF.get(a, ()) for a, b in pairs)


def is_embedding(key: str) -> bool:
    """Whether the key belongs to an embedding that was saved along with a LoRA."""
    return key.startswith("bundle_emb.")


def is_text_encoder(key: str) -> bool:
    """Whether the key belongs to a text encoder, in any naming."""
    return _TEXT_ENCODER.match(key) is not None


def family_of(names: Iterable[str]) -> str | None:
    """The model family that LoRA names or module paths look like ("SDXL"); None if unclear."""
    flat = [bare_name(name) for name in names]
    for family, pattern in _FAMILIES:
        if any(pattern.search(name) for name in flat):
            return family
    return None
