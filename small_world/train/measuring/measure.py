"""Score the base model with the judge: is the picture the object and the style asked for?

The nearest prototype of all objects, and of all styles, must be the one asked for.  The judge's own
errors are measured on fresh renders of the same pairs, so that every row has its upper bound.
Intervals are 95 % bootstraps that draw objects and styles, not pictures (Owen 2007, the pigeonhole
bootstrap): few objects make a wide interval however many pictures there are.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ...judge import (
    JUDGES,
    Judge,
    Prototypes,
    as_images,
    content_prototypes,
    load_judge,
    nearest,
    style_prototypes,
)
from ...world import captions
from ...world.composed import COMPOSED
from ...world.render import render
from .. import checkpoint, mixture
from ..diffusion import Predictor, sample
from ..host import build_model
from ..text import CaptionEncoder, build_text_model

CFG, CHUNK, RESAMPLED = 4.0, 16, 2000
COMPOSED_RENDERS = 3  # a prototype of 1920
KINDS = (*mixture.KINDS, "new combination")
Pair = tuple[str, str]


class Scorer:
    """The judge with the prototypes of every object and every style; of the small world's, unless
    they are given."""

    def __init__(self, judge: Judge, prototypes: tuple[Prototypes, Prototypes] | None = None):
        self.judge = judge
        self.contents, self.named = prototypes or (
            content_prototypes(judge),
            style_prototypes(judge),
        )

    @cached_property
    def composed(self) -> Prototypes:
        return style_prototypes(self.judge, COMPOSED, COMPOSED_RENDERS)

    def hits(self, images: torch.Tensor, asked: Sequence[Pair]) -> dict[str, np.ndarray]:
        """For each (B, 3, 64, 64) picture: is its object right, its style, and both?

        A composed style must have all three words right.  Named and composed styles are told
        apart among their own kind.
        """
        composed = " " in asked[0][1]
        contents, styles = self._found(images, self.composed if composed else self.named)
        content = np.array([f == c for f, (c, _) in zip(contents, asked, strict=True)])
        style = np.array([f == s for f, (_, s) in zip(styles, asked, strict=True)])
        scores = {"object": content, "style": style, "both": content & style}
        if composed:
            words = [
                [f == w for f, w in zip(found.split(), wanted.split(), strict=True)]
                for found, (_, wanted) in zip(styles, asked, strict=True)
            ]
            scores |= dict(zip(("palette", "ground", "technique"), np.array(words).T, strict=True))
        return scores

    def _found(self, images: torch.Tensor, styles: Prototypes) -> tuple[list[str], list[str]]:
        return (
            nearest(self.judge.content_embedding(images), self.contents),
            nearest(self.judge.style_embedding(images), styles),
        )


class Drawer:
    """A written base model, ready to draw prompts on a device."""

    def __init__(self, path: Path, device: torch.device):
        model, text_model = build_model(), build_text_model()
        checkpoint.read(path, model, text_model)
        self.encode = CaptionEncoder(text_model.requires_grad_(False), model, device)
        self.sigmas = model.model_sampling.sigmas.detach()
        self.predict = Predictor(model.diffusion_model.requires_grad_(False).to(device), device)

    def pictures(self, asked: Sequence[Pair], seed: int, cfg: float = CFG) -> torch.Tensor:
        """(B, 3, 64, 64) in [-1, 1], each with noise of its own."""
        texts = [captions.plain(*pair) for pair in asked]
        chunks = [
            sample(self.predict, self.sigmas, self.encode, texts[k : k + CHUNK], seed + k, cfg=cfg)
            for k in tqdm(range(0, len(texts), CHUNK), desc="pictures")
        ]
        return torch.cat(chunks)


def measure(
    path: Path, device: torch.device, seed: int, count: int, kinds: Sequence[str] = KINDS
) -> None:
    """Print both judges' scores of fresh renders, then of the base model, for each kind of pair."""
    drawer = Drawer(path, device)
    scorers = [Scorer(load_judge(place)) for place in JUDGES]
    for kind in kinds:
        rng = np.random.default_rng(seed)
        asked = [mixture.pair(kind, rng) for _ in range(count)]
        fresh = as_images(render(*pair, seed=10_000_000 + k) for k, pair in enumerate(asked))
        for name, images in (
            ("fresh renders", fresh), ("base model", drawer.pictures(asked, seed))
        ):  # fmt: skip
            for number, scorer in enumerate(scorers, 1):
                hits = scorer.hits(images, asked)
                figures = ", ".join(_figure(key, right, asked) for key, right in hits.items())
                print(f"{kind}, {name}, judge {number}: {figures}", flush=True)


def _figure(name: str, hits: np.ndarray, asked: Sequence[Pair]) -> str:
    low, high = bootstrapped(hits, asked)
    return f"{name} {100 * hits.mean():.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def bootstrapped(values: np.ndarray, asked: Sequence[Pair], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean when objects and styles are drawn again, with replacement."""
    rng = np.random.default_rng(seed)
    indices = [np.unique([pair[k] for pair in asked], return_inverse=True)[1] for k in (0, 1)]
    means = []
    for _ in range(RESAMPLED):
        weight = np.ones(len(values))
        for index in indices:
            size = index.max() + 1
            weight = weight * rng.multinomial(size, np.full(size, 1 / size))[index]
        if weight.sum() > 0:
            means.append((weight * values).sum() / weight.sum())
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
