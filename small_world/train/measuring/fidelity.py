"""How near a picture comes to true renders of what was asked for; unlike a judge, it sees smear.

The figure of a pair is the smallest pixel distance of the model's picture to many true renders,
as a multiple of the same distance of fresh renders: 1 is as good as a render.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...judge import as_images
from ...world.render import render
from .. import mixture
from .measure import Drawer, Pair, bootstrapped

RENDERS, FRESH = 200, 8


def smallest_distance(images: torch.Tensor, renders: torch.Tensor) -> torch.Tensor:
    """(B,): root of the mean squared difference to the nearest of the renders (N, 3, H, W)."""
    return (
        (torch.cdist(images.flatten(1), renders.flatten(1)) ** 2 / images[0].numel()).amin(1).sqrt()
    )


def excess(images: torch.Tensor, asked: Sequence[Pair], renders: int = RENDERS) -> np.ndarray:
    """(B,): the figure of each picture of a pair, see above."""
    figures = []
    for k, (image, pair) in enumerate(zip(images, asked, strict=True)):
        first = 2_000_000_000 + 1_000 * k
        true = as_images(render(*pair, seed=first + n) for n in range(renders + FRESH))
        known, fresh = true[:renders], true[renders:]
        own = smallest_distance(fresh, known).mean()
        figures.append(float(smallest_distance(image[None], known)[0] / own))
    return np.array(figures)


def fidelity(path: Path, device: torch.device, seed: int, count: int, kinds: Sequence[str]) -> None:
    """Print the base model's figure for each kind of pair."""
    drawer = Drawer(path, device)
    for kind in kinds:
        rng = np.random.default_rng(seed)
        asked = [mixture.pair(kind, rng) for _ in range(count)]
        figures = excess(drawer.pictures(asked, seed), asked)
        low, high = bootstrapped(figures, asked)
        print(f"{kind}: distance to true renders, fresh renders' own = 1: "
              f"mean {figures.mean():.2f} [{low:.2f}, {high:.2f}], median "
              f"{np.median(figures):.2f} ({count} pictures)", flush=True)  # fmt: skip
