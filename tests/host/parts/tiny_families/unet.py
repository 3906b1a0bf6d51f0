"""UNets: SD1.x, SD2.x, SDXL and its refiner, and what was made of them."""

from __future__ import annotations

import comfy.model_base
import comfy.supported_models
import tiny
import torch

from .one import Tiny

_PICTURE = (4, 8, 8)
_LINEAR = {"use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 16}
_ADM = {"num_classes": "sequential"}
_NOISE = {  # of an embedding of a picture, in unCLIP
    "noise_schedule_config": {"timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"},
    "timestep_dim": 32,
}


def _of(model_class: str, picture=_PICTURE, given=None, **changes) -> Tiny:
    """model_class: of comfy.model_base. given: what its constructor takes besides."""

    def built(kind: str):
        made = getattr(comfy.model_base, model_class)
        return tiny.unet(getattr(comfy.supported_models, kind), made, changes, given or {})

    return Tiny({}, picture, built=built)


def _sdxl(**changes) -> Tiny:
    return _of(
        "SDXL", **_ADM, **_LINEAR, transformer_depth=[0, 1, 1],
        transformer_depth_output=[1, 1, 1, 1, 0, 0], adm_in_channels=tiny.POOLED + 6 * 256,
        **changes,
    )  # fmt: skip


def _video(model_class: str, adm: int) -> Tiny:
    return _of(
        model_class, **_LINEAR, **_ADM, adm_in_channels=adm, in_channels=8,
        use_temporal_attention=True, use_temporal_resblock=True, extra_ff_mix_layer=True,
        use_spatial_context=True, merge_strategy="learned_with_images", video_kernel_size=[3, 1, 1],
    )  # fmt: skip


_PROJECTION = {  # of the text with a camera's angles, which is of CLIP's width
    "cc_projection_weight": torch.eye(tiny.CONTEXT),
    "cc_projection_bias": torch.zeros(tiny.CONTEXT),
}

UNET = {
    "SD15": Tiny({}, _PICTURE, built=lambda _: tiny.sd15()),
    "SD15_instructpix2pix": _of("SD15_instructpix2pix", in_channels=8),
    "Stable_Zero123": _of("Stable_Zero123", given=_PROJECTION, in_channels=8),
    "SD20": _of("BaseModel", **_LINEAR),
    "SD21UnclipL": _of("SD21UNCLIP", given={"noise_aug_config": _NOISE},
                       **_LINEAR, **_ADM, adm_in_channels=64),
    "SD21UnclipH": _of("SD21UNCLIP", given={"noise_aug_config": _NOISE},
                       **_LINEAR, **_ADM, adm_in_channels=96),
    "LotusD": _of("Lotus", **_LINEAR, **_ADM, adm_in_channels=4),
    "SD_X4Upscaler": _of("SD_X4Upscaler", **_LINEAR, num_classes=1000, in_channels=7,
                         disable_self_attentions=[True, True, False]),
    "SDXL": Tiny({}, _PICTURE, built=lambda _: tiny.sdxl()),
    "SDXL_instructpix2pix": _of(
        "SDXL_instructpix2pix", **_ADM, **_LINEAR, transformer_depth=[0, 1, 1], in_channels=8,
        transformer_depth_output=[1, 1, 1, 1, 0, 0], adm_in_channels=tiny.POOLED + 6 * 256,
    ),
    "SSD1B": _sdxl(),
    "KOALA_700M": _sdxl(transformer_depth_middle=-1),
    "KOALA_1B": _sdxl(),
    "Segmind_Vega": _sdxl(),
    "SDXLRefiner": _of(
        "SDXLRefiner", **_LINEAR, **_ADM, adm_in_channels=tiny.POOLED + 5 * 256
    ),
    "SVD_img2vid": _video("SVD_img2vid", 768),
    "SV3D_u": _video("SV3D_u", 256),
    "SV3D_p": _video("SV3D_p", 1280),
}  # fmt: skip
