"""Fusion methods, one paper a file; compose.py joins a method with strengths and a schedule."""

# Imported in the order of the menu, whose first entry is the default.
from . import craft, direct, b_lora, k_lora, est_lora, np_lora, switch, composite  # isort: skip
from .compose import compose
from .methods import FUSION, FusionTraits

__all__ = [
    "FUSION",
    "FusionTraits",
    "b_lora",
    "compose",
    "composite",
    "craft",
    "direct",
    "est_lora",
    "k_lora",
    "np_lora",
    "switch",
]
