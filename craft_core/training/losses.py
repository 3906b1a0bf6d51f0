"""The denoising loss at random noise levels, the same draws on every device.

Everything random of a step comes from (seed, step): a resumed training draws what an
uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Condition, Denoiser


@dataclass(frozen=True)
class Draw:
    """The randomness of one step. stream: an independent one for each thing a step draws."""

    seed: int
    step: int

    def generator(self, stream: int = 0) -> torch.Generator:
        mixed = (self.seed * 1_000_003 + self.step) * 101 + stream
        return torch.Generator().manual_seed(mixed % (1 << 63))


@dataclass(frozen=True)
class Noised:
    """A batch for the model: clean latents and x (B, C, *spatial), sigma (B,), conditions."""

    latent: Tensor
    x: Tensor
    sigma: Tensor
    conditions: Sequence[Condition]


def draw_noise_levels(sigmas: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """(B,) of the model's own levels, uniform over its table, one in each B-th of it."""
    share = (torch.rand(size, generator=generator) + torch.arange(size)) / size
    index = (share * len(sigmas)).long().clamp(max=len(sigmas) - 1)
    return sigmas.cpu().float()[index]


def noised(
    denoiser: Denoiser,
    latent: Tensor,
    conditions: Sequence[Condition],
    generator: torch.Generator,
) -> Noised:
    """(B, C, *spatial) latents with noise at random levels, on the model's device."""
    sigma = draw_noise_levels(denoiser.sigmas, len(latent), generator).to(denoiser.device)
    noise = torch.randn(latent.shape, generator=generator).to(denoiser.device)
    latent = latent.to(denoiser.device, torch.float32)
    return Noised(latent, denoiser.noised(latent, noise, sigma), sigma, conditions)


def denoising_loss(denoiser: Denoiser, batch: Noised) -> tuple[Tensor, Tensor]:
    """(mean squared error of the network's own output, denoised (B, C, *spatial))."""
    denoised = denoiser.denoise(batch.x, batch.sigma, batch.conditions)
    error = (denoised - batch.latent).square().flatten(1).mean(1)  # (B,)
    return (denoiser.loss_weight(batch.sigma) * error).mean(), denoised
