"""Sizes and checkpoint keys of the small world's model; plain data, read by loader and trainer."""

IMAGE_SIZE = 64

# The host's names for an SDXL-shaped UNet.  Attention sits at levels 1 and 2 as in SDXL; with
# 64x64 images the three levels work at 32x32, 16x16 and 8x8.
UNET_SHAPE = {
    "in_channels": 12,
    "out_channels": 12,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 1, 1, 1, 1],
}
# The rest of what the host reads from a checkpoint of this shape.
UNET_REST = {
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_temporal_resblock": False,
}

TEXT_WIDTH = 128
TEXT_LAYERS = 2
TEXT_HEADS = 4
TEXT_LENGTH = 16
VOCABULARY_SIZE = 512  # room for further words

# A longer noise schedule than SDXL's: at its sigma of 14.6 the mean of a 64x64 image still shows.
SAMPLING = {"linear_end": 0.02}

MARKER = "craft_small_world"  # a one-number tensor; names the format
V_PREDICTION = "v_pred"  # the host's own flag
UNET_PREFIX = "model.diffusion_model."
VAE_KEY = "first_stage_model.pixel_space_vae"  # the host's image-is-latent VAE
CLIP_PREFIX = "conditioner.embedders.0."
