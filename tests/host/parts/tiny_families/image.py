"""Diffusion transformers of pictures."""

from __future__ import annotations

import comfy.ops
import tiny
import torch
from comfy.ldm.anima.model import LLMAdapter

from .one import Tiny

_C, _P = tiny.CONTEXT, tiny.POOLED
_LATENT = (16, 8, 8)
_FRAME = (16, 1, 8, 8)


def _flux(**changes) -> dict:
    return {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": _P,
        "context_in_dim": _C, "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 2,
        "depth_single_blocks": 2, "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2,
        "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    } | changes  # fmt: skip


def _llama(generator: torch.Generator) -> dict:
    return {"conditioning_llama3": torch.randn(1, 2, 7, _C, generator=generator)}


def _small_adapter(model) -> None:
    """Anima's adapter of the text has one size, whatever the model's."""
    model.diffusion_model.llm_adapter = LLMAdapter(
        source_dim=_C, target_dim=_C, model_dim=_C, num_layers=1, num_heads=4, device=tiny.CPU,
        dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip


def _t5_ids(generator: torch.Generator) -> dict:
    """Tokens of a second text encoder, which the adapter embeds."""
    return {"t5xxl_ids": torch.randint(0, 32000, (7,), generator=generator),
            "t5xxl_weights": torch.ones(7)}  # fmt: skip


def _mt5(generator: torch.Generator) -> dict:
    return {"conditioning_mt5xl": torch.randn(1, 7, 40, generator=generator),
            "attention_mask": torch.ones(1, 7),
            "attention_mask_mt5xl": torch.ones(1, 7)}  # fmt: skip


def _mask(generator: torch.Generator) -> dict:
    return {"attention_mask": torch.ones(1, 7, dtype=torch.long)}


def _byt5(generator: torch.Generator) -> dict:
    return {"conditioning_byt5small": torch.randn(1, 5, 1472, generator=generator)}


def _low_resolution(generator: torch.Generator) -> dict:
    return {"lq_latent": torch.randn(1, 16, 4, 4, generator=generator),
            "degrade_sigma": torch.tensor([0.1])}  # fmt: skip


def _size(generator: torch.Generator) -> dict:
    return {"width": 64, "height": 64}


def _o1_tokens(generator: torch.Generator) -> dict:
    """A prompt's tokens, the last of which stands for the time."""
    ids = torch.randint(0, 1000, (1, 7), generator=generator)
    ids[0, -1] = 151673
    return {"text_input_ids": ids}


_COSMOS = {
    "max_img_h": 32, "max_img_w": 32, "max_frames": 8, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "concat_padding_mask": True,
    "crossattn_emb_channels": _C, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30, "use_adaln_lora": True,
    "adaln_lora_dim": 16, "num_blocks": 2, "num_heads": 2, "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0, "extra_h_extrapolation_ratio": 1.0,
    "extra_w_extrapolation_ratio": 1.0, "extra_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
}  # fmt: skip

IMAGE = {
    "SD3": Tiny({
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
        "adm_in_channels": _P, "num_patches": 256, "pos_embed_max_size": 16,
        "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [],
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": _C, "out_features": 128},
        },
    }, _LATENT, unset=("pos_embed",)),
    "Flux": Tiny(_flux(), _LATENT),
    "Flux2": Tiny(_flux(
        image_model="flux2", in_channels=128, out_channels=128, vec_in_dim=None, patch_size=1,
        axes_dim=[4, 4, 4, 4], mlp_ratio=3.0, qkv_bias=False, global_modulation=True,
        mlp_silu_act=True, ops_bias=False, txt_ids_dims=[3], theta=2000,
    ), (128, 4, 4)),
    "LongCatImage": Tiny(_flux(
        guidance_embed=False, vec_in_dim=None, txt_ids_dims=[1, 2]
    ), _LATENT),
    "Chroma": Tiny({
        "image_model": "chroma", "in_channels": 64, "out_channels": 64, "context_in_dim": _C,
        "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 2,
        "depth_single_blocks": 2, "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2,
        "qkv_bias": True, "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2,
        "txt_ids_dims": [], "vec_in_dim": None,
    }, _LATENT),
    "ChromaRadiance": Tiny({
        "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3,
        "context_in_dim": _C, "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 2,
        "depth_single_blocks": 2, "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 4,
        "qkv_bias": True, "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2,
        "txt_ids_dims": [], "vec_in_dim": None, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2,
        "nerf_depth": 2, "nerf_max_freqs": 4, "nerf_tile_size": 0,
        "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32, "use_x0": False,
        "use_sequential_txt_ids": False,
    }, (3, 16, 16)),
    "Krea2": Tiny({
        "image_model": "krea2", "features": 64, "tdim": 32, "txtdim": _C, "heads": 4,
        "kvheads": 2, "multiplier": 2, "layers": 2, "patch": 2, "channels": 16, "txtlayers": 2,
        "txtheads": 4, "txtkvheads": 4,
    }, _FRAME, context=2 * _C),
    "QwenImage": Tiny({
        "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 2,
        "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": _C,
        "axes_dims_rope": [4, 6, 6],
    }, _FRAME),
    "ZImage": Tiny({
        "image_model": "lumina2", "in_channels": 16, "patch_size": 2, "dim": 256,
        "cap_feat_dim": _C, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4,
        "n_kv_heads": 4, "qk_norm": True, "axes_dims": [16, 24, 24], "axes_lens": [64, 64, 64],
        "rope_theta": 256.0, "ffn_dim_multiplier": 1.0, "multiple_of": 32,
        "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
    }, _LATENT),
    "Lumina2": Tiny({
        "image_model": "lumina2", "in_channels": 16, "patch_size": 2, "dim": 96,
        "cap_feat_dim": _C, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4,
        "n_kv_heads": 2, "qk_norm": True, "axes_dims": [8, 8, 8], "axes_lens": [64, 64, 64],
        "rope_theta": 10000.0, "ffn_dim_multiplier": 1.0, "multiple_of": 32,
    }, _LATENT),
    "Anima": Tiny(_COSMOS | {"image_model": "anima"}, _FRAME, finish=_small_adapter, extra=_t5_ids),
    "CosmosT2IPredict2": Tiny(
        _COSMOS | {"image_model": "cosmos_predict2"}, _FRAME
    ),
    "HiDream": Tiny({
        "image_model": "hidream", "attention_head_dim": 16, "axes_dims_rope": [8, 4, 4],
        "caption_channels": [_C, _C], "max_resolution": [16, 16], "in_channels": 16,
        "llama_layers": [0, 1, 0, 1], "num_attention_heads": 4, "num_routed_experts": 4,
        "num_activated_experts": 2, "num_layers": 2, "num_single_layers": 2, "out_channels": 16,
        "patch_size": 2, "text_emb_dim": _P,
    }, _LATENT, extra=_llama),
    "ErnieImage": Tiny({
        "image_model": "ernie", "hidden_size": 64, "num_attention_heads": 4, "num_layers": 2,
        "ffn_hidden_size": 96, "in_channels": 128, "out_channels": 128, "patch_size": 1,
        "text_in_dim": _C, "rope_axes_dim": (4, 6, 6),
    }, (128, 4, 4)),
    "FluxInpaint": Tiny(_flux(in_channels=96), _LATENT),
    "FluxSchnell": Tiny(_flux(guidance_embed=False), _LATENT),
    "ZImagePixelSpace": Tiny({
        "image_model": "zimage_pixel", "in_channels": 3, "patch_size": 4, "dim": 256,
        "cap_feat_dim": _C, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4,
        "n_kv_heads": 4, "qk_norm": True, "axes_dims": [16, 24, 24], "axes_lens": [64, 64, 64],
        "rope_theta": 256.0, "ffn_dim_multiplier": 1.0, "multiple_of": 32,
        "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
        "decoder_in_channels": 48, "decoder_hidden_size": 32, "decoder_num_res_blocks": 2,
        "decoder_max_freqs": 4,
    }, (3, 16, 16)),
    "CosmosI2VPredict2": Tiny(
        _COSMOS | {"image_model": "cosmos_predict2", "in_channels": 17}, (16, 2, 8, 8)
    ),
    "AuraFlow": Tiny({
        "max_seq": 64, "cond_seq_dim": _C, "dim": 64, "n_heads": 4, "n_layers": 3,
        "n_double_layers": 1, "global_conddim": 64,
    }, (4, 8, 8)),
    "PixArtAlpha": Tiny({
        "image_model": "pixart_alpha", "num_heads": 4, "patch_size": 2, "hidden_size": 48,
        "in_channels": 4, "depth": 2, "model_max_length": 7, "input_size": 8,
        "pe_interpolation": 1.0, "micro_condition": True, "caption_channels": _C,
    }, (4, 40, 40), extra=_size, unset=("y_embedder.y_embedding",)),
    "PixArtSigma": Tiny({
        "image_model": "pixart_sigma", "num_heads": 4, "patch_size": 2, "hidden_size": 48,
        "in_channels": 4, "depth": 2, "model_max_length": 7, "input_size": 8,
        "pe_interpolation": 1.0, "micro_condition": False, "caption_channels": _C,
    }, (4, 40, 40), unset=("y_embedder.y_embedding",)),
    "HiDreamO1": Tiny({
        "image_model": "hidream_o1", "text_config_overrides": {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "rope_dims": [4, 2, 2],
        }, "vision_config_overrides": {
            "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "depth": 1,
            "num_position_embeddings": 64, "deepstack_visual_indexes": (),
        },
    }, (3, 64, 64), extra=_o1_tokens),
    "HunyuanDiT": Tiny({
        "image_model": "hydit", "hidden_size": 64, "depth": 4, "num_heads": 4,
        "text_states_dim": _C, "text_states_dim_t5": 40, "text_len": 7, "text_len_t5": 7,
    }, (4, 8, 8), extra=_mt5),
    "HunyuanDiT1": Tiny({
        "image_model": "hydit1", "hidden_size": 64, "depth": 4, "num_heads": 4,
        "text_states_dim": _C, "text_states_dim_t5": 40, "text_len": 7, "text_len_t5": 7,
        "size_cond": True, "use_style_cond": True,
    }, (4, 8, 8), extra=_mt5),
    "Lens": Tiny({
        "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 2,
        "attention_head_dim": 16, "num_attention_heads": 4, "enc_hidden_dim": _C,
        "axes_dims_rope": (4, 6, 6), "multi_layer_encoder_feature": False,
        "selected_layer_index": (0,),
    }, (128, 4, 4)),
    "Omnigen2": Tiny({
        "image_model": "omnigen2", "axes_dim_rope": [4, 6, 6], "axes_lens": [64, 64, 64],
        "hidden_size": 64, "in_channels": 16, "multiple_of": 32, "num_attention_heads": 4,
        "num_kv_heads": 2, "num_layers": 2, "num_refiner_layers": 1, "patch_size": 2,
        "text_feat_dim": _C, "timestep_scale": 1000.0,
    }, _LATENT, extra=_mask),
    "Boogu": Tiny({
        "image_model": "boogu", "axes_dim_rope": [4, 6, 6], "axes_lens": [64, 64, 64],
        "hidden_size": 64, "in_channels": 16, "multiple_of": 32, "num_attention_heads": 4,
        "num_kv_heads": 2, "num_layers": 2, "num_double_stream_layers": 1,
        "num_refiner_layers": 1, "patch_size": 2, "instruction_feat_dim": _C,
    }, _LATENT, extra=_mask),
    "MageFlow": Tiny({
        "image_model": "mage_flow", "in_channels": 128, "out_channels": 128, "num_layers": 2,
        "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": _C,
        "axes_dims_rope": (4, 6, 6),
    }, (128, 4, 4)),
    "JoyImage": Tiny({
        "image_model": "joyimage", "hidden_size": 64, "num_attention_heads": 4, "text_dim": _C,
        "num_layers": 2, "rope_dim_list": [4, 6, 6], "theta": 10000,
    }, _FRAME),
    "Ideogram4": Tiny({
        "image_model": "ideogram4", "in_channels": 128, "num_layers": 2,
        "num_attention_heads": 4, "attention_head_dim": 16, "intermediate_size": 96,
        "adaln_dim": 32, "llm_features_dim": _C, "mrope_section": [4, 2, 2],
    }, (128, 4, 4)),
    "HunyuanImage21": Tiny({
        "image_model": "hunyuan_video", "in_channels": 64, "out_channels": 64,
        "patch_size": [1, 1], "vec_in_dim": None, "context_in_dim": _C, "hidden_size": 64,
        "mlp_ratio": 4.0, "num_heads": 4, "depth": 2, "depth_single_blocks": 2,
        "axes_dim": [8, 8], "theta": 256, "qkv_bias": True, "guidance_embed": False,
        "meanflow": True, "meanflow_sum": False, "byt5": True, "use_cond_type_embedding": False,
        "vision_in_dim": None,
    }, (64, 4, 4), extra=_byt5),
    "HunyuanImage21Refiner": Tiny({
        "image_model": "hunyuan_video", "in_channels": 128, "out_channels": 64,
        "patch_size": [1, 1, 1], "vec_in_dim": None, "context_in_dim": _C, "hidden_size": 64,
        "mlp_ratio": 4.0, "num_heads": 4, "depth": 2, "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6], "theta": 256, "qkv_bias": True, "guidance_embed": False,
        "meanflow": False, "meanflow_sum": False, "byt5": False,
        "use_cond_type_embedding": False, "vision_in_dim": None,
    }, (64, 1, 4, 4)),
    "PixelDiTT2I": Tiny({
        "image_model": "pixeldit_t2i", "num_groups": 4, "hidden_size": 64,
        "pixel_hidden_size": 8, "pixel_attn_hidden_size": 64, "pixel_num_groups": 4,
        "patch_depth": 2, "pixel_depth": 1, "patch_size": 8, "txt_embed_dim": _C,
        "txt_max_length": 7,
    }, (3, 32, 32)),
    "PiD": Tiny({
        "image_model": "pid", "num_groups": 4, "hidden_size": 64, "pixel_hidden_size": 8,
        "pixel_attn_hidden_size": 64, "pixel_num_groups": 4, "patch_depth": 2,
        "pixel_depth": 1, "patch_size": 8, "txt_embed_dim": _C, "txt_max_length": 7,
        "lq_hidden_dim": 32, "lq_num_res_blocks": 1, "sr_scale": 1,
    }, (3, 32, 32), extra=_low_resolution),
}  # fmt: skip
