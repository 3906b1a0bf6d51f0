"""The registry of training recipes, and what they share."""

from __future__ import annotations

import torch

from ..registry import Registry

# A recipe is a function of data (positional) and knobs (keyword-only) that returns a Training.
TRAINING = Registry("training recipe")
# A learned merge is such a recipe too: of a denoiser and the LoRAs to merge (merge.Part).
LEARNED = Registry("learned merge")

DTYPES: dict[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}
