"""Classifier-free guidance: away from what the model makes without the prompt.

Ho and Salimans 2022, arXiv:2207.12598. In CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 11 and 19, the
same combination is written (1 + omega) cond - omega uncond, with omega = guidance_scale - 1.
"""

from __future__ import annotations

from torch import Tensor


def combine(cond: Tensor, uncond: Tensor, guidance_scale: float) -> Tensor:
    """uncond + guidance_scale (cond - uncond).

    cond, uncond: same shape, predictions of the same kind (denoised or noise) of the same rows.
    guidance_scale: 0 gives uncond, 1 gives cond up to rounding.
    """
    return uncond + guidance_scale * (cond - uncond)


def guidance_scale_of(omega: float) -> float:
    """The guidance scale of a paper's omega: (1 + omega) cond - omega uncond."""
    return omega + 1.0


def omega_of(guidance_scale: float) -> float:
    """A paper's omega of a guidance scale; the inverse of `guidance_scale_of`."""
    return guidance_scale - 1.0
