"""Treatments of a finished picture: (H, W, 3) in [0, 1] -> the same, deterministic."""

from collections.abc import Callable

import numpy as np

Finish = Callable[[np.ndarray, np.ndarray], np.ndarray]  # picture, figure mask (H, W)


def _blurred(picture: np.ndarray, radius: int) -> np.ndarray:
    """A box blur over the two leading axes, edges repeated."""
    for axis in (0, 1):
        pad = [(radius, radius) if k == axis else (0, 0) for k in range(picture.ndim)]
        wide = np.pad(picture, pad, mode="edge")
        length = picture.shape[axis]
        picture = sum(np.take(wide, range(k, k + length), axis) for k in range(2 * radius + 1)) / (
            2 * radius + 1
        )
    return picture


def _glow(picture, mask):
    return np.clip(picture + 0.8 * _blurred(picture * mask[..., None], 3), 0, 1)


def _blur(picture, mask):
    return _blurred(picture, 1)


def _emboss(picture, mask):
    grey = _blurred(mask, 1)
    slope = grey - np.roll(grey, (2, 2), (0, 1))
    return np.clip(picture + 0.6 * slope[..., None], 0, 1)


def _pixelate(picture, mask):
    height, width, _ = picture.shape
    cells = picture.reshape(height // 4, 4, width // 4, 4, 3).mean((1, 3))
    return np.kron(cells, np.ones((4, 4, 1)))


def _tiles(picture, mask):
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    height, width, _ = picture.shape
    cells = picture.reshape(height // 4, 4, width // 4, 4, 3).mean((1, 3))
    grout = ((x % 4 == 0) | (y % 4 == 0))[..., None]
    return np.where(grout, 0.93, np.kron(cells, np.ones((4, 4, 1))))


def _scanlines(picture, mask):
    rows = (np.arange(picture.shape[0]) % 3 == 0)[:, None, None]
    return np.where(rows, picture * 0.35, picture)


def _halftone(picture, mask):
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(float)
    u, v = (x + y) / 1.414 % 4 - 2, (x - y) / 1.414 % 4 - 2
    dark = 1 - _blurred(picture.mean(2), 1)
    dot = np.clip(0.5 + 3.4 * np.sqrt(dark) - 1.25 * np.hypot(u, v), 0, 1)[..., None]
    return picture * dot + (1 - dot) * (0.25 * picture + 0.75)


FINISHES: dict[str, Finish] = {
    "none": lambda picture, mask: picture,
    "glow": _glow,
    "blur": _blur,
    "emboss": _emboss,
    "pixelate": _pixelate,
    "tiles": _tiles,
    "scanlines": _scanlines,
    "halftone": _halftone,
}
