"""Two small networks that embed a picture as unit vectors: what is drawn (content), how (style).

    judge = load_judge()
    judge.content_similarity(first, second)  # cosines in [-1, 1], whatever the styles are
    names = nearest(judge.style_embedding(pictures), style_prototypes(judge, STYLES))

Plain torch.  They were trained on renders of the small world (`small_world.train judge`), of all
its objects and styles, also of those that the base model has never seen.  They can judge pictures
of this world only, and do not replace CLIP or DINO.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from .world.objects import OBJECTS
from .world.render import SIZE, render, to_tensor_range
from .world.styles import STYLES

FOLDER = Path(__file__).parent / "models" / "judge"
JUDGE = FOLDER / "craft_small_world_judge.safetensors"
SECOND_JUDGE = FOLDER / "craft_small_world_second_judge.safetensors"  # the same from another seed
JUDGES = (JUDGE, SECOND_JUDGE)
WIDTH = 128  # of an embedding
CHANNELS = (48, 80, 128, 192)  # at 32x32, 16x16, 8x8 and 4x4


class EmbeddingNet(nn.Module):
    """Pictures (B, 3, 64, 64) in [-1, 1] -> unit vectors (B, WIDTH).

    Channel means say how much of a feature there is; `spread` adds their standard deviations
    over the picture (style), without it their maxima are added (content).
    """

    def __init__(self, spread: bool):
        super().__init__()
        self.spread = spread
        steps, inputs = [], 12
        for level, outputs in enumerate(CHANNELS):
            steps += _convolution(inputs, outputs, stride=1 if level == 0 else 2)
            if level < len(CHANNELS) - 1:
                steps += _convolution(outputs, outputs, stride=1)
            inputs = outputs
        self.features = nn.Sequential(nn.PixelUnshuffle(2), *steps)
        self.project = nn.Linear(2 * inputs, WIDTH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.features(images).flatten(2).float()  # (B, C, 16)
        second = features.std(2) if self.spread else features.amax(2)
        return functional.normalize(self.project(torch.cat([features.mean(2), second], 1)), dim=1)


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


class Judge(nn.Module):
    """Both nets; pictures are (B, 3, 64, 64) tensors in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.content, self.style = EmbeddingNet(spread=False), EmbeddingNet(spread=True)

    @torch.no_grad()
    def content_embedding(self, images: torch.Tensor) -> torch.Tensor:
        """(B, WIDTH): near for pictures of the same object, whatever the style."""
        return self.content(images)

    @torch.no_grad()
    def style_embedding(self, images: torch.Tensor) -> torch.Tensor:
        """(B, WIDTH): near for pictures in the same style, whatever the object."""
        return self.style(images)

    def content_similarity(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """(B,) cosines between the objects of two batches, picture by picture."""
        return (self.content_embedding(first) * self.content_embedding(second)).sum(1)

    def style_similarity(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """(B,) cosines between the styles of two batches, picture by picture."""
        return (self.style_embedding(first) * self.style_embedding(second)).sum(1)


@dataclass(frozen=True)
class JudgeEncoder:
    """One half of a judge as an encoder of pictures, with the name that a score says it by."""

    judge: Judge
    role: str  # content or style
    label: str = "first"
    preprocessing: str = "64 x 64, squeezed"

    @property
    def name(self) -> str:
        return f"small world's {self.label} judge, {self.role}"

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (B, h, w, 3) in [0, 1] -> unit vectors (B, WIDTH)."""
        images = pictures[..., :3].float().cpu().movedim(-1, 1) * 2 - 1
        if images.shape[2:] != (SIZE, SIZE):
            images = functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        embed = {"content": self.judge.content_embedding, "style": self.judge.style_embedding}
        return embed[self.role](images)


@dataclass(frozen=True)
class Prototypes:
    """Names, and for each the mean direction (n, WIDTH) of the embeddings of its renders."""

    names: tuple[str, ...]
    vectors: torch.Tensor


def load_judge(path: Path = JUDGE) -> Judge:
    """The judge of a file, in float32, ready to use."""
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return judge.eval().requires_grad_(False)


def content_prototypes(
    judge: Judge, names: Iterable[str] = tuple(OBJECTS), renders: int = 12, seed: int = 0
) -> Prototypes:
    """The given objects in `renders` random named styles each."""
    rng, styles = np.random.default_rng(seed), list(STYLES)
    jobs = [(name, [(name, str(rng.choice(styles))) for _ in range(renders)]) for name in names]
    return _prototypes(judge.content_embedding, jobs, seed)


def style_prototypes(
    judge: Judge, names: Iterable[str] = tuple(STYLES), renders: int = 12, seed: int = 0
) -> Prototypes:
    """The given styles (named or composed) on `renders` random objects each."""
    rng, objects = np.random.default_rng(seed), list(OBJECTS)
    jobs = [(name, [(str(rng.choice(objects)), name) for _ in range(renders)]) for name in names]
    return _prototypes(judge.style_embedding, jobs, seed)


def _prototypes(embedding, jobs, seed: int) -> Prototypes:
    means = []
    for index, (_, pairs) in enumerate(jobs):
        pictures = [render(*pair, seed=(seed + 1) * 50_000_017 + 97 * index + k)
                    for k, pair in enumerate(pairs)]  # fmt: skip
        means.append(embedding(as_images(pictures)).mean(0))
    return Prototypes(tuple(n for n, _ in jobs), functional.normalize(torch.stack(means), dim=1))


def nearest(embeddings: torch.Tensor, prototypes: Prototypes) -> list[str]:
    """The name of the prototype with the largest cosine, for each of (B, WIDTH)."""
    best = (embeddings @ prototypes.vectors.T).argmax(1)
    return [prototypes.names[k] for k in best.tolist()]


def as_images(pictures: Iterable[np.ndarray]) -> torch.Tensor:
    """(64, 64, 3) uint8 pictures -> (B, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(np.stack([to_tensor_range(picture) for picture in pictures]))
