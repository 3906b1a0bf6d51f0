"""Draw any object in any style: the same arguments always give the same bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from .composed import compose
from .finishes import FINISHES
from .icons import CELL, Icon
from .objects import OBJECTS, Drawing
from .shapes import ROLES
from .styles import STYLES, Style
from .textures import TEXTURES

SIZE = 64
OVERSAMPLE = 4
MIRRORED = 0.1  # the share of random poses that face the other way

Layer = tuple[str, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Pose:
    """Where the object stands: offset and scale in units of half the picture, degrees, mirror."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 0.9
    turn: float = 0.0
    mirrored: bool = False


def random_pose(rng: np.random.Generator) -> Pose:
    """A small change of place, size and angle; a share of MIRRORED faces the other way."""
    return Pose(
        *rng.uniform(-0.06, 0.06, 2),
        scale=rng.uniform(0.82, 0.96),
        turn=rng.uniform(-6, 6),
        mirrored=bool(rng.random() < MIRRORED),
    )


def render(content: str, style: str, seed: int = 0, pose: Pose | None = None) -> np.ndarray:
    """The picture of an object word in a style, (64, 64, 3) uint8.

    A style is one word of STYLES, or a palette, a ground and a technique word.  `seed` draws the
    pose (unless given) and the grain.  Unknown words raise `KeyError`.
    """
    if content not in OBJECTS:
        raise KeyError(f"no object named {content!r}; the objects are {', '.join(OBJECTS)}")
    rng = np.random.default_rng(seed)
    pose = random_pose(rng) if pose is None else pose
    picture = _draw(OBJECTS[content], style_named(style), pose, rng)
    return np.round(picture * 255).astype(np.uint8)


def style_named(name: str) -> Style:
    """The style of one word, or of three."""
    if name in STYLES:
        return STYLES[name]
    try:
        return compose(name)
    except KeyError:
        raise KeyError(
            f"no style named {name!r}; a style is a palette, a ground and a technique word "
            f"(see composed.py) or one of {', '.join(STYLES)}"
        ) from None


def to_tensor_range(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [-1, 1], the model's latent."""
    return picture.astype(np.float32).transpose(2, 0, 1) / 127.5 - 1.0


def _draw(drawn: Drawing | Icon, style: Style, pose: Pose, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    ground = [_colour(name) for name in style.ground]
    picture = _mixed(ground[0], ground[1], TEXTURES[style.behind](x, y, rng))
    fill = TEXTURES[style.fill](x, y, rng) * style.fill_depth
    palette = dict(zip(ROLES, style.colours, strict=True))
    ink, figure = _colour(style.ink), np.zeros((SIZE, SIZE))
    layers = _icon_layers if isinstance(drawn, Icon) else _part_layers
    for role, body, edge in layers(drawn, style, pose, rng):
        colour = _mixed(_colour(palette[role]), ink, fill)
        picture = picture + (colour - picture) * body[..., None]
        picture = picture + (ink - picture) * edge[..., None]
        figure = np.maximum(figure, np.maximum(body, edge))
    return np.clip(FINISHES[style.finish](picture, figure), 0, 1)


def _part_layers(drawn: Drawing, style: Style, pose: Pose, rng) -> Iterator[Layer]:
    """Role, coverage and outline (H, W) of every part, back to front."""
    wobble = _wobble(style.wobble, rng)
    for part in drawn.parts:
        yield part.role, *_masks(wobble(_placed(part.points, pose)), style.outline)


def _icon_layers(drawn: Icon, style: Style, pose: Pose, rng) -> Iterator[Layer]:
    """The same for an icon: one layer for each role; the last one has all lines between them."""
    fine = _fine_roles(drawn, pose, _wobble(style.wobble, rng))
    shares = [_reduced(fine == k) for k in range(len(ROLES) + 1)]
    none, edge = np.zeros((SIZE, SIZE)), _lines(fine, style.outline)
    shown = shares[0]
    for place, role in enumerate(ROLES):
        # Drawn over each other in turn, the layers must end at exactly their shares.
        shown = shown + shares[place + 1]
        body = np.divide(shares[place + 1], shown, out=np.zeros_like(shown), where=shown > 0)
        yield role, body, edge if place == len(ROLES) - 1 else none


def _fine_roles(drawn: Icon, pose: Pose, wobble) -> np.ndarray:
    """The role map as the pose shows it, OVERSAMPLE cells a pixel; outside the map is 0."""
    y, x = (np.mgrid[: SIZE * OVERSAMPLE, : SIZE * OVERSAMPLE] + 0.5) / OVERSAMPLE
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points = 2 * points - wobble(points)  # the bend is small: its inverse is its negative
    column, row = (
        np.floor((line + 1) * CELL / 2).astype(int) for line in _unplaced(*points.T, pose)
    )
    inside = (column >= 0) & (column < CELL) & (row >= 0) & (row < CELL)
    held = drawn.roles()[np.clip(row, 0, CELL - 1), np.clip(column, 0, CELL - 1)]
    return np.where(inside, held, 0).reshape(x.shape)


def _lines(fine: np.ndarray, width: float) -> np.ndarray:
    """Coverage (H, W) of lines of a width in pixels along every border between roles."""
    if width == 0:
        return np.zeros((SIZE, SIZE))
    reach = max(1, round(width * OVERSAMPLE / 2))
    least, most = fine, fine
    for axis in (0, 1):
        moved = [np.roll(least, k, axis) for k in range(-reach, reach + 1)]
        least = np.minimum.reduce(moved)
        moved = [np.roll(most, k, axis) for k in range(-reach, reach + 1)]
        most = np.maximum.reduce(moved)
    return _reduced(least != most)


def _reduced(mask: np.ndarray) -> np.ndarray:
    """A boolean mask at OVERSAMPLE cells a pixel -> its share of every pixel (H, W)."""
    ones = mask.view(np.uint8)
    rows = sum(ones[k::OVERSAMPLE] for k in range(OVERSAMPLE))
    cells = sum(rows[:, k::OVERSAMPLE] for k in range(OVERSAMPLE))
    return cells.astype(float) / OVERSAMPLE**2


def _colour(name: str) -> np.ndarray:
    return np.array(ImageColor.getrgb(name), dtype=float) / 255


def _mixed(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return first + (second - first) * weight[..., None]  # (H, W, 3)


def _placed(points: np.ndarray, pose: Pose) -> np.ndarray:
    """Unit coordinates -> pixels."""
    angle = np.radians(pose.turn)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = points * (-1, 1) if pose.mirrored else points
    return ((points @ turn) * pose.scale + (pose.x, pose.y) + 1) * SIZE / 2


def _unplaced(x: np.ndarray, y: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Pixels -> unit coordinates, each axis by itself."""
    angle = np.radians(pose.turn)
    x, y = (x * 2 / SIZE - 1 - pose.x) / pose.scale, (y * 2 / SIZE - 1 - pose.y) / pose.scale
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return -x if pose.mirrored else x, y


def _wobble(amplitude: float, rng: np.random.Generator):
    """A smooth random bend of the plane, in pixels; the same for every part of a picture."""
    if amplitude == 0:
        return lambda points: points
    phase = rng.uniform(0, 2 * np.pi, 4)

    def bend(points):
        u, v = points[:, 0] / 5, points[:, 1] / 5
        dx = np.sin(v + phase[0]) + np.sin(0.6 * u + phase[1])
        dy = np.sin(u + phase[2]) + np.sin(0.6 * v + phase[3])
        return points + 0.6 * amplitude * np.stack([dx, dy], axis=1)

    return bend


def _masks(corners: np.ndarray, outline: float) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (H, W) of the polygon and of its outline, antialiased."""
    scaled = [tuple(point) for point in corners * OVERSAMPLE]
    side = SIZE * OVERSAMPLE
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).polygon(scaled, fill=255)
    body = np.asarray(canvas.reduce(OVERSAMPLE), dtype=float) / 255
    if outline == 0:
        return body, np.zeros_like(body)
    canvas = Image.new("L", (side, side))
    width = max(1, round(outline * OVERSAMPLE))
    ImageDraw.Draw(canvas).line([*scaled, *scaled[:2]], fill=255, width=width, joint="curve")
    return body, np.asarray(canvas.reduce(OVERSAMPLE), dtype=float) / 255
