"""Score samples against renders: is the nearest render of all pairs the object and style asked for?

The judge is plain nearest neighbour in pixels, at half size, over several poses of every pair.
Its own error is measured on fresh renders and printed first.
"""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..world import captions
from ..world.objects import OBJECTS
from ..world.render import render
from ..world.styles import STYLES
from . import checkpoint
from .diffusion import sample
from .host import build_model
from .text import CaptionEncoder, build_text_model

POSES, CHUNK = 3, 16


class NearestRender:
    """All objects in all styles (held-out ones too) in `POSES` poses, as half-size vectors."""

    def __init__(self, seed: int = 77):
        self.pairs = [(c, s) for c in OBJECTS for s in STYLES for _ in range(POSES)]
        renders = (
            render(*pair, seed=seed + index)
            for index, pair in enumerate(tqdm(self.pairs, desc="renders"))
        )
        self.bank = np.stack([_vector(picture) for picture in renders])
        self.norms = (self.bank**2).sum(1)

    def __call__(self, picture: np.ndarray) -> tuple[str, str]:
        """The object and style whose render is nearest to a (64, 64, 3) uint8 picture."""
        return self.pairs[int((self.norms - 2 * self.bank @ _vector(picture)).argmin())]

    def score(self, pictures, asked) -> dict[str, float]:
        """Shares of pictures with the right object, the right style, and both."""
        found = [self(picture) for picture in pictures]
        content = [f[0] == a[0] for f, a in zip(found, asked, strict=True)]
        style = [f[1] == a[1] for f, a in zip(found, asked, strict=True)]
        both = [c and s for c, s in zip(content, style, strict=True)]
        names = ("content", "style", "both")
        return {
            name: float(np.mean(hits))
            for name, hits in zip(names, (content, style, both), strict=True)
        }


def _vector(picture: np.ndarray) -> np.ndarray:
    cells = picture.reshape(32, 2, 32, 2, 3).mean((1, 3), dtype=np.float32)
    return (cells / 255).ravel()


def measure(out: Path, seed: int, count: int = 64) -> None:
    """Print the judge's score on fresh renders, then the base model's on trained pairs."""
    model, text_model = build_model(), build_text_model()
    checkpoint.read(out / "checkpoints" / "craft_small_world.safetensors", model, text_model)
    encode = CaptionEncoder(text_model, model)
    judge, rng = NearestRender(), np.random.default_rng(seed)
    asked = [captions.trained_pair(rng) for _ in range(count)]
    fresh = [render(*pair, seed=10_000_000 + index) for index, pair in enumerate(asked)]
    print("fresh renders", judge.score(fresh, asked))
    for cfg in (4.0,):
        pictures = []
        for start in tqdm(range(0, count, CHUNK), desc=f"cfg {cfg}"):
            texts = [captions.plain(*pair) for pair in asked[start : start + CHUNK]]
            images = sample(model, encode, texts, seed=seed + start, cfg=cfg)
            pictures += list(to_pictures(images))
        print(f"base model, cfg {cfg}", judge.score(pictures, asked))


def to_pictures(images: torch.Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8."""
    return ((images.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy()
