"""What the key names of a LoRA file reveal: text encoder or not, and the model's family."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from ..families.reader import ASKED
from .keys import bare_name

_TEXT_ENCODER = re.compile(
    r"(base_model\.model\.)*"
    r"(lora_(prior_)?te\d*_|lora_text_(encoder|model)|lycoris_te(\d*_|xt_(encoder|model))"
    r"|text_encoders?(_\d+)?[._]|te\d*[._]|text_model\.|cond_stage_model\.|conditioner\."
    r"|clip_[lgh]\.|t5xxl\.)"
)
CLASSES = ("a UNet (SD1.x, SD2.x or SDXL)", "a diffusion transformer")
"""Kinds of network, for names that no family has to itself."""
# The first with a name of its own wins; names are read as keys.bare_name has them.
_LOOKS = (
    *((one.looks_like, re.compile(one.told_by)) for one in ASKED),
    (CLASSES[0], re.compile(r"(down|up|input|output|mid|middle)_block")),
    (CLASSES[1], re.compile(r"transformer_blocks_\d|(^|_)(layers|blocks)_\d")),
)
_BLOCKS_OF = {(one.looks_like, one.blocks_of) for one in ASKED if one.blocks_of}
_MOST_NAMES, _MOST_LETTERS = 4096, 192  # that are looked at
EMBEDDING_ADVICE = (
    "Use the embedding as a file of its own in models/embeddings, and its name in the prompt"
)


def share_names(one: str, other: str) -> bool:
    """Whether names of one family can be those of the other: it is the same, or has its blocks."""
    return one == other or not _BLOCKS_OF.isdisjoint({(one, other), (other, one)})


def is_embedding(key: str) -> bool:
    """Whether the key belongs to an embedding that was saved along with a LoRA."""
    return key.startswith("bundle_emb.")


def is_text_encoder(key: str) -> bool:
    """Whether the key belongs to a text encoder, in any naming."""
    return _TEXT_ENCODER.match(key) is not None


def family_of(names: Iterable[str]) -> str | None:
    """The model family that LoRA names or module paths look like ("SDXL"); None if unclear.

    A family is told by its first names: what a file writes there does not choose how long it takes.
    """
    flat = {bare_name(name[:_MOST_LETTERS]) for name in islice(names, _MOST_NAMES)}
    for looks, pattern in _LOOKS:
        if any(pattern.search(name) for name in flat):
            return looks
    return None
