"""The size at which a picture is learned: rules that make one fit the size a model was made for.

`area` is what trainers call aspect ratio buckets (NovelAI's; kohya's tools): a picture keeps its
shape, and its sides are multiples of 8 latent cells, so that pictures of like shapes share a batch.
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
        made = _within(picture, size[0] * size[1], cell)
        return None if made == picture else Fitted(made, made, True)
    if resize == KEEP or picture == size:
        return None
    if resize != PAD:
        return Fitted(size, size, resize == CROP)
    scale = min(wanted / own for wanted, own in zip(size, picture, strict=True))
    width, height = (max(1, round(own * scale)) for own in picture)
    return Fitted(size, (min(width, size[0]), min(height, size[1])), False)


def _within(picture: Size, area: int, cell: int) -> Size:
    """The bucket nearest in shape, of the largest that have no more pixels than `area`; for a
    picture that has no more, its own size in whole cells."""
    width, height = picture
    if width * height <= area:
        return _floor(width, cell), _floor(height, cell)
    near = min(picture) * math.sqrt(area / (width * height))
    step = cell * (_CELLS if near >= cell * _CELLS else 1)
    shorts = (_floor(near, step), _floor(near, step) + step)
    buckets = [(long, short) for short in shorts if (long := _floor(area / short, step)) >= short]
    shape = math.log(max(picture) / min(picture))
    long, short = min(buckets, key=lambda one: abs(math.log(one[0] / one[1]) - shape))
    return (long, short) if width > height else (short, long)


def _floor(value: float, step: int) -> int:
    """In whole steps, and at least one."""
    return max(1, int(value // step)) * step
