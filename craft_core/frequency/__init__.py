"""Low and high bands of images and latents: what CRAFT-LoRA takes for content and for style."""

from .guided import blend
from .split import DOMAINS, Domain, check_band, inverse, low_high, low_pass, masks, transform

__all__ = [
    "DOMAINS",
    "Domain",
    "blend",
    "check_band",
    "inverse",
    "low_high",
    "low_pass",
    "masks",
    "transform",
]
