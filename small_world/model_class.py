"""The host's SDXL made small: its UNet class on Haar bands of a 64x64 image, in pixel space."""

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from . import haar
from .architecture import CLIP_PREFIX, MARKER, SAMPLING, TEXT_WIDTH, UNET_SHAPE
from .text_encoder import SmallClipModel, SmallTokenizer


class PixelImage(comfy.latent_formats.LatentFormat):
    """The latent is the image itself: three channels in [-1, 1], no scale."""

    scale_factor = 1.0
    latent_channels = 3
    spacial_downscale_ratio = 1

    def __init__(self):
        self.latent_rgb_factors = [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]


class BandUNet(UNetModel):
    """The host's UNet, run on the four Haar bands of its input."""

    def _forward(self, x, *args, **kwargs):  # (B, 3, H, W) -> (B, 3, H, W)
        return haar.from_bands(super()._forward(haar.to_bands(x), *args, **kwargs))


class SmallSDXL(comfy.model_base.SDXL):
    """The host's SDXL model around `BandUNet`; conditioning vectors are SDXL's own."""

    def __init__(self, model_config, model_type=comfy.model_base.ModelType.EPS, device=None):
        comfy.model_base.BaseModel.__init__(
            self, model_config, model_type, device=device, unet_model=BandUNet
        )
        self.embedder = comfy.model_base.Timestep(256)
        self.noise_augmentor = None

    def encode_adm(self, **kwargs) -> torch.Tensor:
        """(B, TEXT_WIDTH + 6*256): pooled text and SDXL's six size numbers."""
        kwargs.pop("unclip_conditioning", None)  # would need a noise augmentor of CLIP's width
        return super().encode_adm(**kwargs)


class CraftSmallWorld(comfy.supported_models.SDXL):
    """Matches only a checkpoint with our marker key and our UNet shape."""

    unet_config = {
        **UNET_SHAPE,
        "use_linear_in_transformer": True,
        "use_temporal_attention": False,
        "context_dim": TEXT_WIDTH,
        "adm_in_channels": TEXT_WIDTH + 6 * 256,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    required_keys = {MARKER: None}
    sampling_settings = SAMPLING
    latent_format = PixelImage
    memory_usage_factor = 0.8
    first_latent = ("EmptyLatentImage", 64, 64)  # what a graph for it starts from

    def inpaint_model(self) -> bool:
        """Twelve input channels are Haar bands here, not a mask and a masked image."""
        return False

    def get_model(self, state_dict, prefix="", device=None):
        return SmallSDXL(self, model_type=self.model_type(state_dict, prefix), device=device)

    def process_clip_state_dict(self, state_dict):
        return comfy.utils.state_dict_prefix_replace(
            state_dict, {CLIP_PREFIX: "clip_l."}, filter_keys=True
        )

    def process_clip_state_dict_for_saving(self, state_dict):
        return comfy.utils.state_dict_prefix_replace(state_dict, {"clip_l.": CLIP_PREFIX})

    def clip_target(self, state_dict={}):  # noqa: B006 - the host's signature
        return comfy.supported_models_base.ClipTarget(SmallTokenizer, SmallClipModel)
