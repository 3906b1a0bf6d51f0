"""Patterns on the pixel grid: each is a weight in [0, 1] between two colours.

A pattern gets the coordinates `x`, `y` (H, W) in pixels and a random generator; only the grained
ones draw from it, so that a style looks the same in every picture.
"""

from collections.abc import Callable

import numpy as np

Pattern = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _wave(phase: np.ndarray, sharpness: float = 4.0) -> np.ndarray:
    """A smooth square wave of the given phase (radians)."""
    return np.clip(0.5 + 0.5 * sharpness * np.sin(phase), 0, 1)


def _stripes(dx: float, dy: float, period: float) -> Pattern:
    return lambda x, y, rng: _wave(2 * np.pi * (x * dx + y * dy) / period)


def _dots(period: float, radius: float) -> Pattern:
    def pattern(x, y, rng):
        row = np.floor(y / period)
        u = (x + row % 2 * period / 2) % period - period / 2
        v = y % period - period / 2
        return np.clip(radius + 0.5 - np.hypot(u, v), 0, 1)

    return pattern


def _checks(period: float) -> Pattern:
    return lambda x, y, rng: ((x // period + y // period) % 2).astype(float)


def _grid(period: float) -> Pattern:
    return lambda x, y, rng: ((x % period < 1) | (y % period < 1)).astype(float)


def _grain(cell: int) -> Pattern:
    def pattern(x, y, rng):
        height, width = x.shape
        coarse = rng.random((height // cell + 1, width // cell + 1))
        return np.kron(coarse, np.ones((cell, cell)))[:height, :width]

    return pattern


def _crosshatch(x, y, rng):
    return np.maximum(
        _wave(2 * np.pi * (x + y) / 6, 2) > 0.85, _wave(2 * np.pi * (x - y) / 6, 2) > 0.85
    ).astype(float)


def _waves(x, y, rng):
    return _wave(2 * np.pi * (y + 2.5 * np.sin(2 * np.pi * x / 16)) / 8)


def _bricks(x, y, rng):
    row = np.floor(y / 6)
    return ((y % 6 < 1) | ((x + row % 2 * 6) % 12 < 1)).astype(float)


def _scales(x, y, rng):
    row = np.floor(y / 6)
    u = (x + row % 2 * 5) % 10 - 5
    return np.clip(np.hypot(u, y % 6) - 4.2, 0, 1)


def _rays(x, y, rng):
    return _wave(12 * np.arctan2(y - 32, x - 32), 3)


def _rings(x, y, rng):
    return _wave(2 * np.pi * np.hypot(x - 32, y - 32) / 9)


def _fall(x, y, rng):
    return y / max(y.max(), 1)


def _vignette(x, y, rng):
    return np.clip(np.hypot(x - 32, y - 32) / 45, 0, 1) ** 2


def _split(x, y, rng):
    return (y > 42).astype(float)


def _diamonds(x, y, rng):
    return ((np.abs(x % 12 - 6) + np.abs(y % 12 - 6)) < 4).astype(float)


TEXTURES: dict[str, Pattern] = {
    "flat": lambda x, y, rng: np.zeros_like(x),
    "hstripes": _stripes(0, 1, 6),
    "vstripes": _stripes(1, 0, 6),
    "slant": _stripes(0.7, 0.7, 6),
    "broad": _stripes(0.7, -0.7, 14),
    "lines": _stripes(0, 1, 3),
    "dots": _dots(6, 1.7),
    "bigdots": _dots(12, 3.5),
    "checks": _checks(4),
    "bigchecks": _checks(8),
    "grid": _grid(8),
    "grain": _grain(1),
    "blotches": _grain(4),
    "hatch": _crosshatch,
    "waves": _waves,
    "bricks": _bricks,
    "scales": _scales,
    "rays": _rays,
    "rings": _rings,
    "fall": _fall,
    "vignette": _vignette,
    "split": _split,
    "diamonds": _diamonds,
}
