"""The registry of training recipes, and what they share."""

from __future__ import annotations

from typing import Annotated

import torch

from ..registry import Knob, Method, Registry

# A recipe is a function of data (positional) and knobs (keyword-only) that returns a Training.
TRAINING = Registry("training recipe")
# A learned merge is such a recipe too: of a denoiser and the LoRAs to merge (merge.Part).
LEARNED = Registry("learned merge")


def training_of(key: str) -> Method:
    """A recipe or a learned merge; no key belongs to both."""
    return LEARNED[key] if key in LEARNED.keys() else TRAINING[key]


DTYPES: dict[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}

# Knobs that recipes share.
Accumulate = Annotated[int, Knob("Batches that make one step.", 1, 256, 1, advanced=True)]
Shift = Annotated[
    int,
    Knob("Latent cells a picture may move each way (one is 8 pixels for most VAEs).", 0, 32, 1),
]
Mirror = Annotated[bool, Knob("Mirror one picture in two.")]
SaveAs = Annotated[
    str,
    Knob("Type of the saved numbers; fp32 is exact.", choices=tuple(DTYPES), advanced=True),
]
