"""LoRA files: names of layers, exact low-rank factors, reading and writing."""

from .factors import combine
from .keys import kohya_stems, lora_names, unet_diffusers_blocks, unet_diffusers_paths
from .statistics import STATISTICS, Meter, frobenius_norm, magnitude, pair_statistics
from .storage import parse_lora, read_lora, write_lora

__all__ = [
    "STATISTICS",
    "Meter",
    "combine",
    "frobenius_norm",
    "kohya_stems",
    "lora_names",
    "magnitude",
    "pair_statistics",
    "parse_lora",
    "read_lora",
    "unet_diffusers_blocks",
    "unet_diffusers_paths",
    "write_lora",
]
