"""Tiny random models of the host's own classes: SD1.x, SDXL and DiT families, a few channels."""

from __future__ import annotations

import comfy.controlnet
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch
from comfy.cldm.cldm import ControlNet

CPU = torch.device("cpu")
CONTEXT = 48
POOLED = 32


def _unet_config(**changes) -> dict:
    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [1, 1, 1],
        "channel_mult": [1, 2, 2],
        "transformer_depth": [1, 1, 0],
        "transformer_depth_output": [1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "context_dim": CONTEXT,
        "num_heads": 4,
        "num_head_channels": -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "legacy": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "dtype": torch.float32,
    }
    return config | changes


def sd15(dtype: torch.dtype = torch.float32, seed: int = 0):
    """MODEL of the SD1.x class, seeded random weights."""
    return _patcher(
        comfy.supported_models.SD15, comfy.model_base.BaseModel, _unet_config(), dtype, seed
    )


def sdxl(
    dtype: torch.dtype = torch.float32, seed: int = 0, quantised: bool = False,
    device: torch.device | None = None, computes: torch.dtype = torch.float32, **changes,
):  # fmt: skip
    """MODEL of the SDXL class: attention on the two deeper levels, linear projections, ADM.

    quantised: with linear layers that load quantised weights, and have none before. device: where
    it is made and loaded. computes: the dtype of its products. changes: UNet settings to override,
    for larger ones.
    """
    config = _unet_config(
        transformer_depth=[0, 1, 1],
        transformer_depth_output=[1, 1, 1, 1, 0, 0],
        use_linear_in_transformer=True,
        num_heads=-1,
        num_head_channels=16,
        num_classes="sequential",
        adm_in_channels=POOLED + 6 * 256,
    )
    config |= changes
    return _patcher(
        comfy.supported_models.SDXL, comfy.model_base.SDXL, config, dtype, seed, quantised,
        device=device, computes=computes,
    )  # fmt: skip


def flux(seed: int = 0, **changes):
    """MODEL of the Flux class: a DiT whose blocks write into their inputs.

    changes: settings to override, for a deeper one.
    """
    return dit(comfy.supported_models.Flux, {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED,
        "context_in_dim": CONTEXT, "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 2,
        "depth_single_blocks": 2, "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2,
        "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    } | changes, seed)  # fmt: skip


def z_image(seed: int = 0):
    """MODEL of the Z-Image class: fused qkv, tokens padded to a multiple, a context refiner.

    256 wide, because its modulation takes exactly 256 numbers.
    """
    return dit(comfy.supported_models.ZImage, {
        "image_model": "lumina2", "in_channels": 16, "patch_size": 2, "dim": 256,
        "cap_feat_dim": CONTEXT, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4,
        "n_kv_heads": 4, "qk_norm": True, "axes_dims": [16, 24, 24], "axes_lens": [64, 64, 64],
        "rope_theta": 256.0, "ffn_dim_multiplier": 1.0, "multiple_of": 32,
        "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
    }, seed)  # fmt: skip


def qwen_image(seed: int = 0):
    """MODEL of the Qwen-Image class: image and text streams, latents with a frame axis."""
    return dit(comfy.supported_models.QwenImage, {
        "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 2,
        "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": CONTEXT,
        "axes_dims_rope": [4, 6, 6],
    }, seed)  # fmt: skip


def sd3(seed: int = 0):
    """MODEL of the SD3 class: joint blocks, 64 wide a block, the last one without a text stream."""
    made = dit(comfy.supported_models.SD3, {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
        "adm_in_channels": POOLED, "num_patches": 256, "pos_embed_max_size": 16,
        "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [],
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": CONTEXT, "out_features": 128},
        },
    }, seed)  # fmt: skip
    positions = made.model.diffusion_model.pos_embed  # a buffer, which the class leaves unset
    positions.copy_(torch.randn(positions.shape, generator=torch.Generator().manual_seed(seed)))
    return made


def wan(seed: int = 0):
    """MODEL of the Wan 2.1 class, text to video: latents with a frame axis."""
    return dit(comfy.supported_models.WAN21_T2V, {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "out_dim": 16, "num_heads": 2,
        "ffn_dim": 96, "num_layers": 2, "patch_size": (1, 2, 2), "freq_dim": 32, "in_dim": 16,
        "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
        "text_dim": CONTEXT,
    }, seed)  # fmt: skip


def hunyuan_video(seed: int = 0):
    """MODEL of the HunyuanVideo class: Flux's blocks, and text refined by a transformer."""
    return dit(comfy.supported_models.HunyuanVideo, {
        "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16,
        "patch_size": [1, 2, 2], "vec_in_dim": POOLED, "context_in_dim": CONTEXT,
        "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 2, "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6], "theta": 256, "qkv_bias": True, "guidance_embed": True,
        "meanflow": False, "meanflow_sum": False, "byt5": False, "use_cond_type_embedding": False,
        "vision_in_dim": None,
    }, seed)  # fmt: skip


def dit(kind, config: dict, seed: int, finish=None, state=None):
    """The family's own way from its configuration to a MODEL, seeded random weights, float32.

    finish: called with the model before its weights are drawn. state: a checkpoint's own keys.
    """
    made = kind(config)
    made.unet_config.update(config)  # over what the class sets for models of its own size
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model(state or {}, device=CPU)
    if finish is not None:
        finish(model)
    randomise_all(model.diffusion_model, seed)
    return _loadable(model)


def unet(kind, model_class, changes: dict, given: dict):
    """MODEL of a UNet class: SD1.x's settings with changes. given: to the constructor besides."""
    config = _unet_config(**changes)
    return _patcher(kind, model_class, config, torch.float32, 0, given=given)


def _patcher(
    kind, model_class, unet_config: dict, dtype, seed: int, quantised=False, given=None,
    device=None, computes=torch.float32,
):  # fmt: skip
    """v-prediction, so that a random network's samples come out as tame as its outputs."""
    config = kind(unet_config)
    for key, value in unet_config.items():  # the class's extra config must not override ours
        config.unet_config[key] = value
    if quantised:
        config.quant_config = {"mixed_ops": True}
    manual_cast = None if dtype == computes and not quantised else computes
    config.set_inference_dtype(dtype, manual_cast)
    model = model_class(
        config,
        model_type=comfy.model_base.ModelType.V_PREDICTION,
        device=device or CPU,
        **given or {},
    )
    randomise_all(model.diffusion_model, seed)
    last = model.diffusion_model.out[2].weight
    last.data = (last.data.float() * 0.01).to(last.dtype)  # samples of about unit size
    return _loadable(model, device)


def _loadable(model, device: torch.device | None = None):
    where = device or comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=where, offload_device=CPU)


class OnTheCard:
    """What the host hangs on a network under dynamic VRAM: a copy would be freed twice."""

    def __deepcopy__(self, memo):
        raise AssertionError("memory of the card was copied")


def randomise_all(module: torch.nn.Module, seed: int) -> None:
    """Seeded weights of a trained network's scale, also where the class initialises zeros."""
    generator = torch.Generator(next(module.parameters()).device).manual_seed(seed)
    for name, parameter in module.named_parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 100
        values = torch.randn(parameter.shape, generator=generator, device=generator.device)
        values /= fan_in**0.5
        if parameter.ndim == 1 and name.endswith("weight"):
            values = values + 1.0  # a normalisation's gain
        parameter.data = values.to(parameter.dtype)


def control(seed: int = 21):
    """ControlNet of the SDXL class, with a hint, at strength 0.7 and over 80% of the run."""
    config = dict(sdxl().model.model_config.unet_config)
    for key in ("out_channels", "transformer_depth_output", "disable_self_attentions"):
        config.pop(key, None)
    net = ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **config)
    randomise_all(net, seed)
    made = comfy.controlnet.ControlNet(
        net, load_device=comfy.model_management.get_torch_device(), manual_cast_dtype=None
    )
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(seed))
    return made.set_cond_hint(hint, 0.7, (0.0, 0.8))


def conditioning(seed: int, tokens: int = 7, context: int = CONTEXT, **extra) -> list:
    """Random CONDITIONING, as a text encoder would give it."""
    generator = torch.Generator().manual_seed(seed)
    cross = torch.randn(1, tokens, context, generator=generator)
    pooled = torch.randn(1, POOLED, generator=generator)
    return [[cross, {"pooled_output": pooled, **extra}]]


def latent(batch: int = 1, size: int = 16, seed: int | None = None) -> dict:
    """Empty LATENT, or a random one where a seed is given."""
    samples = torch.zeros(batch, 4, size, size)
    if seed is not None:
        samples = torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed))
    return {"samples": samples}


def random_lora(layers: dict, rank: int, seed: int, size: float = 0.3) -> dict:
    """kohya state dict of a LoRA on all `layers` {module path: weight shape}, with alpha."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for path, shape in layers.items():
        stem = "lora_unet_" + path.replace(".", "_")
        out, inner = shape[0], shape[1:]
        down = torch.randn(rank, *inner, generator=generator)
        up = torch.randn(out, rank, *[1] * (len(shape) - 2), generator=generator)
        fan_in = down[0].numel()
        state[f"{stem}.lora_down.weight"] = down / fan_in**0.5
        state[f"{stem}.lora_up.weight"] = size * up / rank**0.5
        state[f"{stem}.alpha"] = torch.tensor(rank / 2.0)
    return state
