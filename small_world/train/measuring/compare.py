"""Compare recipes: short trainings from the same weights on one pool, scored in the same way.

The scores do not depend on how a recipe weighs noise levels: for pictures by the averaged weights,
whether a judge finds in them what was asked for, and how near they come to true renders.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...judge import Judge, Prototypes, as_images, nearest
from ...world import captions
from ..base import BaseTraining, sheet
from ..diffusion import NoiseLevels
from .fidelity import FRESH, smallest_distance

STEPS, CFG = 12, 4.0


@dataclass(frozen=True)
class Validation:
    """Pairs to draw, a judge with its prototypes, and true renders of some of the pairs."""

    asked: list[tuple[str, str]]
    judge: Judge
    contents: Prototypes
    named: Prototypes
    composed: Prototypes
    selected: list[int]
    renders: np.ndarray  # (selected, renders of a pair, 64, 64, 3) uint8

    def score(self, images: torch.Tensor) -> dict[str, float]:
        found = nearest(self.judge.content_embedding(images), self.contents)
        content = np.array([f == c for f, (c, _) in zip(found, self.asked, strict=True)])
        vectors = self.judge.style_embedding(images)
        style = np.array([
            nearest(vector[None], self.composed if " " in s else self.named)[0] == s
            for vector, (_, s) in zip(vectors, self.asked, strict=True)
        ])  # fmt: skip
        composed = np.array([" " in s for _, s in self.asked])
        excess = [
            self._excess(images[k], renders)
            for k, renders in zip(self.selected, self.renders, strict=True)
        ]
        scores = {"distance": float(np.mean(excess))}
        for name, chosen in (("named", ~composed), ("composed", composed)):
            for axis, right in (("object", content), ("style", style), ("both", content & style)):
                scores[f"{name}, {axis}"] = right[chosen].mean()
        return {name: round(float(value), 3) for name, value in scores.items()}

    def _excess(self, image: torch.Tensor, renders: np.ndarray) -> float:
        true = as_images(renders)
        known, fresh = true[FRESH:], true[:FRESH]
        own = smallest_distance(fresh, known).mean()
        return float(smallest_distance(image[None], known)[0] / own)


def read_validation(path: Path, judge: Judge) -> Validation:
    """A file of arrays: asked, selected, renders, and names and vectors of three prototypes."""
    held = np.load(path)
    prototypes = [
        Prototypes(tuple(held[f"{key}n"].tolist()), torch.from_numpy(held[f"{key}v"]))
        for key in "csk"
    ]
    asked = [(str(c), str(s)) for c, s in held["asked"]]
    return Validation(asked, judge, *prototypes, held["selected"].tolist(), held["renders"])


def compare(training: BaseTraining, variants: list[str], validation: Validation) -> None:
    """Train and score each variant, `noise` or `noise:rate`, for the settings' steps."""
    start, usual = [p.detach().clone() for p in training.parameters], training.rate
    training.pool.fill(training.farm, training.first)
    if training.device.type == "cuda" and training.settings.compile:
        training.compile()
    texts = [captions.plain(*pair) for pair in validation.asked]
    for variant in variants:
        noise, _, rate = variant.partition(":")
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in training.parameters], start)
        training.rate = float(rate) if rate else usual
        training.levels = NoiseLevels(noise, training.sigmas, training.device)
        training.reset()
        begun = time.monotonic()
        while training.step < training.total:
            training.train_step()
        training.check()
        seconds = time.monotonic() - begun
        images = training.pictures_of(texts, steps=STEPS, cfg=CFG)
        print(
            f"compare {variant}: {training.total} steps, {training.shown} pictures, "
            f"{seconds:.1f} s, loss {training.loss:.4f}, {validation.score(images)}",
            flush=True,
        )
        name = variant.replace(":", "_")
        sheet(images[:: max(1, len(images) // 32)][:32]).save(training.out / f"compare_{name}.png")
    training.farm.close()
