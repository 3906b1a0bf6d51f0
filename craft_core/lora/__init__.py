"""LoRA files: names of layers, exact low-rank factors, reading and writing."""

from .energy import alone_totals, energy, magnitude, pair_energies, top_k_sum
from .factors import combine
from .keys import Layers, lora_names, unet_diffusers_blocks, unet_diffusers_paths
from .storage import parse_lora, read_lora, write_lora

__all__ = [
    "Layers",
    "alone_totals",
    "combine",
    "energy",
    "lora_names",
    "magnitude",
    "pair_energies",
    "parse_lora",
    "read_lora",
    "top_k_sum",
    "unet_diffusers_blocks",
    "unet_diffusers_paths",
    "write_lora",
]
