"""A tiny random ControlNet of the SDXL class."""

from __future__ import annotations

import comfy.controlnet
import comfy.ops
import tiny
import torch
from comfy.cldm.cldm import ControlNet


def control(seed: int = 21):
    """With a hint, at strength 0.7, until 80% of the noise is gone."""
    config = dict(tiny.sdxl().model.model_config.unet_config)
    for key in ("out_channels", "transformer_depth_output", "disable_self_attentions"):
        config.pop(key, None)
    net = ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **config)
    tiny.randomise_all(net, seed)
    made = comfy.controlnet.ControlNet(net, load_device=tiny.CPU, manual_cast_dtype=None)
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(seed))
    return made.set_cond_hint(hint, 0.7, (0.0, 0.8))
