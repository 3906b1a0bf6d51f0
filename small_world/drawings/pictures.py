"""A drawing as the model sees it: small, on white, moved a little."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..world.render import SIZE, Pose, random_pose
from .sets import SETS

FINER = 2  # drawn pixels a pixel of the picture, before they are averaged


class Drawings:
    """The folder that `fetch` made. It travels to other processes as its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not any((folder / name).is_dir() for name in SETS):
            raise SystemExit(
                f"{folder} has no drawings. Get them: python -m small_world.drawings fetch"
            )

    def has(self, content: str, style: str) -> bool:
        return (self.folder / style / f"{content}.png").is_file()

    def render(
        self, content: str, style: str, seed: int = 0, pose: Pose | None = None
    ) -> np.ndarray:
        """The picture of an object word as a set draws it, (64, 64, 3) uint8.

        `seed` draws the pose, unless it is given. `KeyError` where the set has no such object.
        """
        if not self.has(content, style):
            raise KeyError(f"{style!r} has no drawing of {content!r} in {self.folder}")
        pose = random_pose(np.random.default_rng(seed)) if pose is None else pose
        source = _opened(str(self.folder / style / f"{content}.png"))
        side = SIZE * FINER
        placed = source.transform(
            (side, side), Image.Transform.AFFINE, _inverse(pose, side, source.width),
            Image.Resampling.BICUBIC, fillcolor="white",
        )  # fmt: skip
        return np.asarray(placed.reduce(FINER))


@lru_cache(maxsize=4000)
def _opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _inverse(pose: Pose, side: int, source: int) -> tuple[float, ...]:
    """Where a pixel of the placed picture comes from: the six numbers of Pillow's AFFINE."""
    angle = np.radians(pose.turn)
    cos, sin = np.cos(angle), np.sin(angle)
    scale = source / (side * pose.scale)
    turn = np.array([[cos, sin], [-sin, cos]]) * scale
    if pose.mirrored:
        turn[0] *= -1
    shift = np.array([pose.x + 1, pose.y + 1]) * side / 2
    offset = source / 2 - turn @ shift
    return tuple(float(v) for v in (*turn[0], offset[0], *turn[1], offset[1]))
