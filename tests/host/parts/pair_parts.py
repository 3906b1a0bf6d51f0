"""A tiny CLIP and VAE of the host's own classes, and random references: parts of a pair set."""

from __future__ import annotations

import comfy.sd
import comfy.supported_models_base
import comfy.taesd.taesd
import tiny
import torch
from comfy import sd1_clip
from craft_lora_pack.comfy_adapter.pairs.references import References


class TinyTextModel(sd1_clip.SD1ClipModel):
    """The host's CLIP at one narrow layer."""

    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 - host's signature
        super().__init__(device, dtype, model_options, clip_model=TinyTextLayers)


class TinyTextLayers(sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 - host's signature
        config = {
            "num_hidden_layers": 1,
            "hidden_size": tiny.CONTEXT,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "hidden_act": "quick_gelu",
            "max_position_embeddings": 77,
            "eos_token_id": 49407,
        }
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config,
            return_projected_pooled=False,
            model_options=model_options,
        )


def random_weights(state: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Weights of a trained network's scale; the host's classes leave them uninitialised."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, old in state.items():
        fan_in = max(1, old[0].numel()) if old.ndim > 1 else 1
        found[name] = torch.randn(old.shape, generator=generator) / fan_in**0.5
    return found


def tiny_clip() -> comfy.sd.CLIP:
    """CLIP whose conditioning has the width of tiny's SD1.x model."""
    target = comfy.supported_models_base.ClipTarget(sd1_clip.SD1Tokenizer, TinyTextModel)
    made = comfy.sd.CLIP(target)
    state = made.cond_stage_model.state_dict()
    made.cond_stage_model.load_state_dict(random_weights(state, seed=4))
    return made


def tiny_vae() -> comfy.sd.VAE:
    """The host's TAESD: 8 pixels a latent cell, 4 channels; pictures that mostly stay in [0, 1]."""
    state = random_weights(comfy.taesd.taesd.TAESD().state_dict(), seed=5)
    for name, weight in state.items():
        if weight.ndim == 1:
            weight *= 0.1
        if weight.shape == (3,) and "decoder" in name:  # the last bias: mid-grey
            weight.fill_(0.5)
    return comfy.sd.VAE(sd=state)


def references(count: int, side: str, size: int = 64) -> References:
    seed = {"content": 20, "style": 30}[side]
    images = torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))
    return References(images, tuple(f"{side} {index}" for index in range(count)))
