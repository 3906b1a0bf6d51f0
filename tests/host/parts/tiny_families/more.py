"""Stable Cascade, and the host's diffusion models of sound and of shapes."""

from __future__ import annotations

import comfy.ops
import tiny
import torch
from comfy.ldm.ace.lyric_encoder import ConformerEncoder
from comfy.ldm.audio.embedders import NumberConditioner

from .one import Tiny

_ROTARY = "transformer.rotary_pos_emb.inv_freq"
_C, _P = tiny.CONTEXT, tiny.POOLED


def _seconds(longest: int = 512, kind: str = "learned") -> dict:
    one = NumberConditioner(
        768, min_val=0, max_val=longest, fourier_features_type=kind
    )  # fmt: skip
    tiny.randomise_all(one, 0)
    return {
        f"conditioner.conditioners.{name}.{key}": value
        for name in ("seconds_start", "seconds_total")
        for key, value in one.state_dict().items()
    }


def _seconds3() -> dict:
    return _seconds(384)


def _lyrics(generator: torch.Generator) -> dict:
    return {"conditioning_lyrics": torch.randint(0, 32, (1, 5), generator=generator)}


def _song(generator: torch.Generator) -> dict:
    return {"conditioning_lyrics": torch.randn(1, 5, _C, generator=generator)}


def _small_lyrics(model) -> None:
    """The encoder of the lyrics has one size, whatever the model's."""
    model.diffusion_model.lyric_encoder = ConformerEncoder(
        input_size=32, output_size=32, attention_heads=2, linear_units=48, num_blocks=1,
        static_chunk_size=0, device=tiny.CPU, dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip


MORE = {
    "Stable_Cascade_C": Tiny({
        "stable_cascade_stage": "c", "c_cond": 64, "c_hidden": [64, 64], "nhead": [4, 4],
        "blocks": [[1, 1], [1, 1]], "c_clip_text": _C, "c_clip_text_pooled": _P,
    }, (16, 4, 4)),
    "Stable_Cascade_B": Tiny({
        "stable_cascade_stage": "b", "c_hidden": [32, 32, 64, 64], "nhead": [-1, -1, 4, 4],
        "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]], "block_repeat": [[1, 1, 1, 1], [1, 1, 1, 1]],
        "c_cond": 64, "c_clip": _P,
    }, (4, 32, 32)),
    "StableAudio": Tiny({
        "audio_model": "dit1.0", "global_cond_dim": 1536, "project_cond_tokens": True,
        "embed_dim": 128, "cond_token_dim": 768, "num_heads": 2, "io_channels": 64,
        "input_concat_dim": 0, "depth": 2, "timestep_features_type": "learned",
    }, (64, 16), context=768, state=_seconds, unset=(_ROTARY,)),
    "StableAudio3": Tiny({
        "audio_model": "dit1.0", "global_cond_dim": 768, "project_cond_tokens": True,
        "embed_dim": 128, "cond_token_dim": 768, "num_heads": 2, "io_channels": 256,
        "input_concat_dim": 0, "depth": 2, "timestep_features_type": "learned",
        "global_cond_shared_embed": True, "global_cond_type": "adaLN",
        "local_add_cond_dim": 257, "attn_kwargs": {"qk_norm": "rms"}, "norm_type": "rms_norm",
    }, (256, 16), context=768, state=_seconds3, unset=(_ROTARY,)),
    "ACEStep": Tiny({
        "audio_model": "ace", "num_layers": 2, "inner_dim": 64, "attention_head_dim": 16,
        "num_attention_heads": 4, "mlp_ratio": 2.5, "max_position": 64, "max_width": 64,
        "text_embedding_dim": _C, "lyric_encoder_vocab_size": 32, "lyric_hidden_size": 32,
        "ssl_encoder_depths": [1, 1], "ssl_latent_dims": [16, 16],
    }, (8, 16, 8), extra=_lyrics, finish=_small_lyrics),
    "ACEStep15": Tiny({
        "audio_model": "ace1.5", "hidden_size": 64, "text_hidden_dim": _C, "num_dit_layers": 2,
        "num_lyric_layers": 1, "num_timbre_layers": 1, "num_tokenizer_layers": 1, "num_heads": 4,
        "num_kv_heads": 2, "head_dim": 16, "intermediate_size": 96, "fsq_dim": 64,
        "encoder_hidden_size": 64, "encoder_intermediate_size": 96, "encoder_num_heads": 4,
    }, (64, 20), extra=_song),
    "Hunyuan3Dv2": Tiny({
        "image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": _C, "hidden_size": 64,
        "num_heads": 4, "depth": 2, "depth_single_blocks": 2,
    }, (64, 12)),
    "Hunyuan3Dv2mini": Tiny({
        "image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": _C, "hidden_size": 64,
        "num_heads": 4, "depth": 2, "depth_single_blocks": 2, "guidance_embed": True,
    }, (64, 12)),
    "Hunyuan3Dv2_1": Tiny({
        "image_model": "hunyuan3d2_1", "in_channels": 64, "hidden_size": 64, "context_dim": _C,
        "depth": 4, "num_heads": 4, "num_moe_layers": 1, "num_experts": 2,
        "guidance_cond_proj_dim": None,
    }, (64, 12)),
    "TripoSplat": Tiny({
        "image_model": "triposplat", "q_token_length": 16, "model_channels": 64,
        "cond_channels": _C, "num_blocks": 2, "num_refiner_blocks": 1, "num_head_channels": 16,
    }, ((16, 16), (1, 5))),
}  # fmt: skip
