"""Tiny picture encoders of the host's own classes, with random weights."""

from __future__ import annotations

import comfy.clip_vision
from pair_parts import random_weights

_COMMON = {
    "hidden_size": 32, "image_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2,
    "num_channels": 3, "patch_size": 4,
}  # fmt: skip
_CLIP = {"intermediate_size": 64, "hidden_act": "quick_gelu"}
CONFIGS = {
    "CLIP": {**_COMMON, **_CLIP, "model_type": "clip_vision_model", "projection_dim": 24},
    "SigLIP": {**_COMMON, **_CLIP, "model_type": "siglip_vision_model"},
    "DINOv2": {
        **_COMMON, "model_type": "dinov2", "layer_norm_eps": 1e-6, "use_swiglu_ffn": False,
        "mlp_ratio": 4,
    },
}  # fmt: skip


def tiny_vision(family: str = "CLIP", seed: int = 7) -> comfy.clip_vision.ClipVisionModel:
    """What Load CLIP Vision gives for a small file of that family."""
    made = comfy.clip_vision.ClipVisionModel(CONFIGS[family])
    missing, unexpected = made.load_sd(random_weights(made.get_sd(), seed))
    assert not missing and not unexpected
    return made
