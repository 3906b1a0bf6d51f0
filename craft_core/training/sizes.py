"""The size at which a picture is learned: rules that make one fit the size a model was made for.

`area` is what trainers call aspect ratio buckets (NovelAI's; kohya's tools): a picture keeps its
shape, and its sides are multiples of 8 latent cells, so that pictures of like shapes share a batch.
The size itself is such a bucket too, also where its sides are no such multiples (1328).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height, in pixels."""

AREA, CROP, PAD, STRETCH, KEEP = "area", "crop", "pad", "stretch", "keep"
RULES: Mapping[str, str] = {
    AREA: "a larger picture is scaled down to that many pixels and keeps its shape",
    CROP: "scaled until it covers the size, and what is over is cut off on both sides",
    PAD: "scaled until it fits into the size, with white borders",
    STRETCH: "scaled to the size, whatever its shape",
    KEEP: "every picture keeps its own size",
}
USUAL: Size = (1024, 1024)
"""Of a model whose own size is not known."""
_CELLS = 8  # latent cells that a side which `area` makes is a multiple of


@dataclass(frozen=True)
class Fit:
    """resize: a key of RULES. size: None for the one that the model was made for."""

    resize: str = AREA
    size: Size | None = None


@dataclass(frozen=True)
class Fitted:
    """How a picture is made to fit. size: of the result. inner: of the picture in the middle of it,
    smaller where there are borders. crop: whether the picture is cut to the shape of inner, or
    stretched to it."""

    size: Size
    inner: Size
    crop: bool


def fitted(picture: Size, resize: str, size: Size, cell: int) -> Fitted | None:
    """How a rule makes a picture fit; None for as it is. size: that the model is trained at. cell:
    pixels of a latent cell, each way."""
    if resize == AREA:
        made = _within(picture, size, cell)
        return None if made == picture else Fitted(made, made, True)
    if resize == KEEP or picture == size:
        return None
    if resize != PAD:
        return Fitted(size, size, resize == CROP)
    scale = min(wanted / own for wanted, own in zip(size, picture, strict=True))
    width, height = (max(1, round(own * scale)) for own in picture)
    return Fitted(size, (min(width, size[0]), min(height, size[1])), False)


def _within(picture: Size, size: Size, cell: int) -> Size:
    """The bucket that shows the whole picture largest, of those that have no more pixels than
    `size`, and of equal ones the nearest in shape; for a picture that has no more, its own size in
    whole cells."""
    width, height = picture
    area = size[0] * size[1]
    if width * height <= area:
        return _floor(width, cell), _floor(height, cell)
    ratio = max(picture) / min(picture)
    near = math.sqrt(area / ratio)
    step = cell * (_CELLS if near >= cell * _CELLS else 1)
    shorts = range(step, max(step, math.isqrt(area)) + 1, step)
    buckets = [(_long(short, ratio, area, step), short) for short in shorts]
    own = _floor(max(size), cell), _floor(min(size), cell)
    long, short = min([own, *buckets], key=lambda one: _loss(one, ratio))
    return (long, short) if width > height else (short, long)


def _long(short: int, ratio: float, area: int, step: int) -> int:
    """The long side of a bucket: as long as the shape has it in whole steps, or as the area lets it
    be."""
    wanted = math.ceil(short * ratio / step) * step
    return min(wanted, _floor(area / short, step))


def _loss(bucket: Size, ratio: float) -> tuple[float, float]:
    """What to keep small: less the area of the whole picture in the bucket, then how far the shapes
    are apart."""
    long, short = bucket
    shown = min(long, short * ratio) ** 2 / ratio
    return -shown, abs(math.log(long / short / ratio))


def _floor(value: float, step: int) -> int:
    """In whole steps, and at least one."""
    return max(1, int(value // step)) * step
