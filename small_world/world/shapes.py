"""Outlines that objects are composed of: every primitive is a polygon in the unit square.

Coordinates run from -1 to 1, x to the right and y down.  A part is a polygon and the role of its
colour; which colour a role has is the style's business.
"""

from dataclasses import dataclass
from math import pi

import numpy as np

ROLES = "abcdl"  # main, second, accent, dark, light


@dataclass(frozen=True)
class Part:
    """One filled polygon `points` (N, 2) in the colour of `role`."""

    role: str
    points: np.ndarray

    def __post_init__(self):
        assert self.role in ROLES and self.points.ndim == 2 and self.points.shape[1] == 2


def _turned(points: np.ndarray, centre: tuple, degrees: float) -> np.ndarray:
    angle = degrees * pi / 180
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (points - centre) @ turn + centre


def oval(role, x, y, rx, ry=None, turn=0.0) -> Part:
    """An ellipse, or a disc when `ry` is left out."""
    return sector(role, x, y, rx, rx if ry is None else ry, 0, 360, turn)


def sector(role, x, y, rx, ry, start, stop, turn=0.0) -> Part:
    """The region between an elliptic arc (degrees, clockwise from the right) and its chord."""
    angles = np.linspace(start, stop, 40) * pi / 180
    points = np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)
    return Part(role, _turned(points, (x, y), turn))


def box(role, x, y, half_width, half_height, turn=0.0) -> Part:
    """A rectangle around (x, y); edges carry several points so that wobble bends them."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (half_width, half_height) + (x, y)
    return Part(role, _turned(_refined(corners), (x, y), turn))


def poly(role, *points) -> Part:
    """A polygon through the given (x, y) pairs."""
    return Part(role, _refined(np.array(points, dtype=float)))


def bar(role, x0, y0, x1, y1, width) -> Part:
    """A straight stroke of the given width."""
    along = np.array([x1 - x0, y1 - y0], dtype=float)
    across = np.array([-along[1], along[0]]) / np.linalg.norm(along) * width / 2
    start, stop = np.array([x0, y0]), np.array([x1, y1])
    return Part(
        role, _refined(np.array([start + across, stop + across, stop - across, start - across]))
    )


def ring(role, x, y, radius, width, start=0, stop=360, squash=1.0) -> Part:
    """A circular band of the given width between two angles; `squash` scales it vertically."""
    angles = np.linspace(start, stop, 48) * pi / 180
    circle = np.stack([np.cos(angles), squash * np.sin(angles)], axis=1)
    outer, inner = circle * (radius + width / 2), circle[::-1] * (radius - width / 2)
    return Part(role, np.concatenate([outer, inner]) + (x, y))


def star(role, x, y, radius, inner, points, turn=-90.0) -> Part:
    """A star with the given number of points, inner radius as a fraction of the outer."""
    angles = (np.arange(2 * points) * 180 / points + turn) * pi / 180
    radii = np.where(np.arange(2 * points) % 2 == 0, radius, radius * inner)
    return Part(role, np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1))


def around(role, x, y, distance, count, rx, ry, turn=0.0) -> list[Part]:
    """`count` ovals on a circle, each pointing outward: petals, wheels, rays."""
    parts = []
    for k in range(count):
        degrees = turn + 360 * k / count
        angle = degrees * pi / 180
        centre = x + distance * np.cos(angle), y + distance * np.sin(angle)
        parts.append(oval(role, *centre, rx, ry, degrees))
    return parts


def _refined(corners: np.ndarray, steps: int = 6) -> np.ndarray:
    """Points along every edge of a closed polygon, so that a deformation bends it smoothly."""
    following = np.roll(corners, -1, axis=0)
    weights = np.arange(steps)[:, None, None] / steps
    return (corners * (1 - weights) + following * weights).transpose(1, 0, 2).reshape(-1, 2)
