"""A small picture of what a training has learned so far, without a trace in its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...craft_core.training import Dataset, Example, StepCallback, Training
from .denoiser import HostDenoiser
from .train import CANCEL

STEPS, GUIDANCE = 12, 3.0
_FAILURES = (RuntimeError, MemoryError)  # the first: torch has no memory, on whatever device


def with_samples(
    watch: StepCallback,
    denoiser: HostDenoiser,
    every: int,
    show: Callable[[Tensor], None],
    warn: Callable[[str], None],
) -> StepCallback:
    """`watch`, which also shows a picture every so many steps, of one caption after another. show:
    is given (height, width, 3) in [0, 1]. Where one cannot be made there are no more, and warn is
    told why."""
    failed = False

    def after_step(training: Training) -> None:
        nonlocal failed
        if training.step % every == 0 and not failed:
            try:
                show(sample(denoiser, training, training.step // every - 1))
            except _FAILURES as error:
                failed = True
                why = " ".join(str(error).split())[:200] or type(error).__name__
                warn(f"The training goes on without sample pictures; one failed: {why}")
        watch(training)

    return after_step


def sample(denoiser: HostDenoiser, training: Training, number: int) -> Tensor:
    """The picture of a caption with the present weights, (height, width, 3) in [0, 1]."""
    recipe: Any = training.recipe
    data, example = _turn(recipe.shown(), number)
    with torch.no_grad(), denoiser.edited(recipe.edits()):
        latent = _euler(denoiser, data, example, training.pace.seed)
        return denoiser.decode(latent)[0].movedim(0, -1).float().cpu().clamp(0, 1)


def _turn(shown: tuple[Dataset, ...], number: int) -> tuple[Dataset, Example]:
    data = shown[number % len(shown)]
    return data, data.examples[number // len(shown) % len(data.examples)]


def _euler(denoiser: HostDenoiser, data: Dataset, example: Example, seed: int) -> Tensor:
    """Euler's method over the model's noise levels, with standard guidance, but for a model that
    guides itself: (1, C, *spatial). An interrupt is heard before each step."""
    levels = torch.linspace(len(denoiser.sigmas) - 1, 0, STEPS).round().long()
    sigmas = [*denoiser.sigmas.cpu()[levels].tolist(), 0.0]
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    noise = torch.randn(1, *example.latent.shape, generator=generator).to(denoiser.device)
    conditions = [example.condition]
    if data.empty is not None and not denoiser.guides_itself:
        conditions.append(data.empty)
    x = denoiser.noised(torch.zeros_like(noise), noise, torch.tensor([sigmas[0]]).to(noise))
    for sigma, then in zip(sigmas, sigmas[1:], strict=False):
        CANCEL()
        rows = len(conditions)
        both = denoiser.denoise(
            x.expand(rows, *x.shape[1:]), torch.full((rows,), sigma).to(x), conditions
        )
        denoised = both[-1:] + GUIDANCE * (both[:1] - both[-1:]) if rows > 1 else both
        x = x + (x - denoised) / sigma * (then - sigma)
    return x
