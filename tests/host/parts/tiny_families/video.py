"""Diffusion transformers of videos."""

from __future__ import annotations

import tiny
import torch

from .one import Tiny

_C, _P = tiny.CONTEXT, tiny.POOLED
_CLIP = (16, 3, 8, 8)


def _wan(**changes) -> dict:
    return {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "out_dim": 16, "num_heads": 2,
        "ffn_dim": 96, "num_layers": 2, "patch_size": (1, 2, 2), "freq_dim": 32, "in_dim": 16,
        "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
        "text_dim": _C,
    } | changes  # fmt: skip


def _hunyuan(**changes) -> dict:
    return {
        "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16,
        "patch_size": [1, 2, 2], "vec_in_dim": _P, "context_in_dim": _C,
        "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 2, "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6], "theta": 256, "qkv_bias": True, "guidance_embed": True,
        "meanflow": False, "meanflow_sum": False, "byt5": False, "use_cond_type_embedding": False,
        "vision_in_dim": None,
    } | changes  # fmt: skip


_LTX = {
    "cross_attention_dim": 64, "attention_head_dim": 16, "num_attention_heads": 4,
    "caption_channels": _C, "num_layers": 2,
}  # fmt: skip
_LTX_AUDIO = {
    "in_channels": 128, "audio_in_channels": 128, "audio_cross_attention_dim": 32,
    "audio_attention_head_dim": 8, "audio_num_attention_heads": 4,
    "connector_attention_head_dim": 16, "connector_num_attention_heads": 3,
    "connector_num_layers": 1,
}  # fmt: skip
_COSMOS = {
    "image_model": "cosmos", "max_img_h": 32, "max_img_w": 32, "max_frames": 8, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64,
    "block_config": "FA-CA-MLP", "concat_padding_mask": True, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False, "pos_emb_interpolation": "crop", "block_x_format": "THWBD",
    "affline_emb_norm": True, "use_adaln_lora": True, "adaln_lora_dim": 16, "num_blocks": 2,
    "num_heads": 2, "crossattn_emb_channels": _C, "extra_per_block_abs_pos_emb": True,
    "rope_h_extrapolation_ratio": 1.0, "rope_w_extrapolation_ratio": 1.0,
    "rope_t_extrapolation_ratio": 2.0, "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
_COG = {
    "image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 64,
    "time_embed_dim": 32, "text_embed_dim": _C, "num_layers": 2, "in_channels": 16,
    "out_channels": 16, "patch_size": 2, "sample_width": 8, "sample_height": 8,
    "sample_frames": 9, "max_text_seq_length": 7, "use_rotary_positional_embeddings": True,
}  # fmt: skip


def _masked(generator: torch.Generator) -> dict:
    return {"attention_mask": torch.ones(1, 7, dtype=torch.long)}


def _low_quality(generator: torch.Generator) -> dict:
    return {"condition": torch.randn(1, 17, 2, 8, 8, generator=generator)}


def _camera(generator: torch.Generator) -> dict:
    return {"camera_conditions": torch.randn(1, 24, 3, 64, 64, generator=generator)}


def _audio(generator: torch.Generator) -> dict:
    return {"audio_embed": torch.randn(1, 3, 8, 5, 1280, generator=generator)}


def _speech(generator: torch.Generator) -> dict:
    return {"audio_embed": torch.randn(1, 25, 1024, 12, generator=generator)}


VIDEO = {
    "WAN21_T2V": Tiny(_wan(), _CLIP),
    "WAN22_T2V": Tiny(_wan(in_dim=48, out_dim=48), (48, 2, 8, 8)),
    "HunyuanVideo": Tiny(_hunyuan(), _CLIP),
    "HunyuanVideo15": Tiny(_hunyuan(
        in_channels=65, out_channels=32, patch_size=[1, 1, 1], vec_in_dim=None,
        depth_single_blocks=0, guidance_embed=False, vision_in_dim=24,
        use_cond_type_embedding=True, byt5=True,
    ), (32, 2, 4, 4)),
    "LTXV": Tiny(
        _LTX | {"image_model": "ltxv", "in_channels": 128}, (128, 2, 4, 4), extra=_masked
    ),
    "LTXAV": Tiny(_LTX | _LTX_AUDIO | {"image_model": "ltxav"}, ((128, 2, 4, 4), (8, 6, 16))),
    "Kandinsky5": Tiny({
        "image_model": "kandinsky5", "in_text_dim": _C, "in_text_dim2": _P, "time_dim": 32,
        "model_dim": 64, "ff_dim": 96, "visual_embed_dim": 132, "num_text_blocks": 1,
        "num_visual_blocks": 2, "axes_dims": (4, 6, 6),
    }, _CLIP),
    "WAN21_CausalAR_T2V": Tiny(_wan(), _CLIP),
    "WAN21_I2V": Tiny(_wan(model_type="i2v", in_dim=36), _CLIP),
    "WAN21_FunControl2V": Tiny(_wan(model_type="i2v", in_dim=48), _CLIP),
    "WAN21_Camera": Tiny(_wan(model_type="camera", in_dim=32), _CLIP, extra=_camera),
    "WAN21_Vace": Tiny(_wan(model_type="vace", vace_layers=1, vace_in_dim=96), _CLIP),
    "WAN21_HuMo": Tiny(_wan(model_type="humo", in_dim=36), _CLIP, extra=_audio),
    "WAN21_FlowRVS": Tiny(_wan(model_type="flow_rvs"), _CLIP),
    "WAN21_SCAIL": Tiny(_wan(model_type="scail", in_dim=20), _CLIP),
    "WAN21_SCAIL2": Tiny(_wan(model_type="scail2", in_dim=20), _CLIP),
    "WAN22_Camera": Tiny(_wan(model_type="camera_2.2", in_dim=36), _CLIP, extra=_camera),
    "WAN22_S2V": Tiny(_wan(model_type="s2v", audio_inject_layers=[0]), _CLIP, extra=_speech),
    "WAN22_Animate": Tiny(_wan(model_type="animate", in_dim=36), _CLIP),
    "WAN22_WanDancer": Tiny(_wan(
        model_type="wandancer", in_dim=36, audio_inject_layers=[0], music_dim=32,
        music_latent_dim=32,
    ), _CLIP),
    "HunyuanVideoI2V": Tiny(_hunyuan(in_channels=33), _CLIP),
    "HunyuanVideoSkyreelsI2V": Tiny(_hunyuan(in_channels=32), _CLIP),
    "HunyuanVideo15_SR_Distilled": Tiny(_hunyuan(
        in_channels=98, out_channels=32, patch_size=[1, 1, 1], vec_in_dim=None,
        depth_single_blocks=0, guidance_embed=False, vision_in_dim=24, meanflow=True,
        use_cond_type_embedding=True, byt5=True, meanflow_sum=True,
    ), (32, 2, 4, 4)),
    "Kandinsky5Image": Tiny({
        "image_model": "kandinsky5", "in_text_dim": _C, "in_text_dim2": _P, "time_dim": 32,
        "model_dim": 64, "ff_dim": 96, "visual_embed_dim": 64, "num_text_blocks": 1,
        "num_visual_blocks": 2, "axes_dims": (4, 6, 6), "rope_scale_factor": (1.0, 1.0, 1.0),
    }, (16, 1, 8, 8)),
    "CosmosT2V": Tiny(_COSMOS, _CLIP),
    "CosmosI2V": Tiny(_COSMOS | {"in_channels": 17}, _CLIP),
    "CogVideoX_T2V": Tiny(_COG, _CLIP),
    "CogVideoX_I2V": Tiny(_COG | {"in_channels": 32}, _CLIP),
    "CogVideoX_Inpaint": Tiny(_COG | {"in_channels": 48}, _CLIP),
    "MiniMaxH3": Tiny({
        "image_model": "minimax_h3", "hidden_size": 64, "num_layers": 2,
        "token_refiner_num_layers": 1, "num_attention_heads": 4, "attention_head_dim": 16,
        "ffn_hidden_size": 96, "text_dim": _C, "timestep_input_dim": 32,
        "time_embed_hidden_size": 64, "time_embed_dim": 32, "rope_inv_freq_len": 2,
    }, ((24, 2, 8, 8), (32, 2, 6)), unset=("rope.inv_freq",)),
    "SeedVR2": Tiny({
        "image_model": "seedvr2", "norm_eps": 1e-5, "num_layers": 2, "mlp_type": "normal",
        "vid_dim": 64, "txt_in_dim": _C, "heads": 4, "head_dim": 16, "mm_layers": 1,
        "rope_dim": 12,
    }, (16, 2, 8, 8), extra=_low_quality,
       unset=("positive_conditioning", "negative_conditioning")),
}  # fmt: skip
