"""Captioned pictures, and how a training step draws them: batches of one shape, moved a little."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import CraftError
from .denoiser import Condition, Example


@dataclass(frozen=True)
class Dataset:
    """Pictures of one kind. empty: the condition of an empty prompt, for dropped captions."""

    examples: tuple[Example, ...]
    empty: Condition | None = None

    def __post_init__(self) -> None:
        if not self.examples:
            raise CraftError(
                "There are no pictures to train on",
                "Training needs at least one captioned picture",
                "Connect an image and write what it shows",
            )
        for one in self.examples:
            latents = [one.latent] if one.mirrored is None else [one.latent, one.mirrored]
            if not all(bool(torch.isfinite(latent).all()) for latent in latents):
                raise CraftError(
                    f"The latent of {one.name or 'a picture'} holds NaN or infinity",
                    "Pictures are finite numbers once the VAE has encoded them",
                    "Check the picture; some VAEs overflow in fp16 and need fp32 or bf16",
                )

    def digest(self) -> str:
        """Short hash of pictures and captions: a training resumes on what it began with. A mirrored
        latent follows from its picture."""
        found = hashlib.sha256()
        for one in self.examples:
            found.update(one.latent.contiguous().numpy().tobytes())
            found.update(f"{tuple(one.latent.shape)} {one.caption}".encode())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Moves:
    """How a picture may be moved, so that one picture teaches the thing and not its place.

    shift: latent cells it may move each way, edges repeated. mirror: one in two is mirrored, for
    which the examples have their mirrored latents.
    """

    shift: int = 0
    mirror: bool = False

    def __call__(self, example: Example, generator: torch.Generator) -> Tensor:
        """(C, *frames, H, W), the example's latent or its mirrored one, shifted."""
        latent = example.latent
        if self.mirror and bool(torch.rand((), generator=generator) < 0.5):
            assert example.mirrored is not None, "what may be mirrored was encoded mirrored, too"
            latent = example.mirrored
        if not self.shift:
            return latent
        down, right = torch.randint(2 * self.shift + 1, (2,), generator=generator).tolist()
        height, width = latent.shape[-2:]
        frames = latent.reshape(1, -1, height, width)
        wide = functional.pad(frames, (self.shift,) * 4, mode="replicate")
        return wide[..., down : down + height, right : right + width].reshape(latent.shape)


def choose(examples: Sequence[Example], size: int, generator: torch.Generator) -> list[int]:
    """Indices of `size` examples of one latent shape; each comes before any comes again."""
    lead = examples[int(torch.randint(len(examples), (), generator=generator))]
    alike = [i for i, one in enumerate(examples) if one.latent.shape == lead.latent.shape]
    order: list[int] = []
    while len(order) < size:
        order += torch.randperm(len(alike), generator=generator).tolist()
    return [alike[i] for i in order[:size]]


def batch(
    examples: Sequence[Example], moves: Moves, generator: torch.Generator
) -> tuple[Tensor, list[Condition]]:
    """(B, C, *spatial) latents, moved, and their conditions."""
    latents = torch.stack([moves(one, generator) for one in examples])
    return latents, [one.condition for one in examples]


def dropped(
    conditions: list[Condition], empty: Condition | None, share: float, generator: torch.Generator
) -> list[Condition]:
    """The conditions with a random `share` of them replaced by the empty prompt's."""
    if not share:
        return conditions
    if empty is None:
        raise CraftError(
            f"caption_dropout = {share:g} without an empty prompt",
            "Dropped captions are replaced by the empty prompt",
            "Give the empty prompt's conditioning, or set caption_dropout to 0",
        )
    drawn = torch.rand(len(conditions), generator=generator) < share
    return [empty if out else kept for kept, out in zip(conditions, drawn.tolist(), strict=True)]
