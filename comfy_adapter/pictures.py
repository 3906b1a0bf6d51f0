"""Pictures for the page, drawn with Pillow as the host's own nodes do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CONTENT = (66, 135, 245)
STYLE = (240, 120, 50)
INK, GRID, PAPER = (60, 60, 60), (225, 225, 225), (255, 255, 255)
_SIZE, _LEFT, _RIGHT, _TOP, _BOTTOM = (640, 360), 52, 16, 34, 44


def curves_picture(content: Sequence[float], style: Sequence[float], title: str) -> Tensor:
    """The two strengths over sampling as an IMAGE, (1, height, width, 3) in [0, 1].

    content, style: equally spaced samples from the first step to the last.
    """
    image = Image.new("RGB", _SIZE, PAPER)
    draw = ImageDraw.Draw(image)
    _axes(draw, title)
    _legend(draw)
    for values, colour in ((content, CONTENT), (style, STYLE)):
        points = [_point(i / (len(values) - 1), value) for i, value in enumerate(values)]
        draw.line(points, fill=colour, width=4, joint="curve")
    return to_image(image)


def to_image(picture: Image.Image) -> Tensor:
    """A Pillow picture as the host's IMAGE."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)[None]


def _point(progress: float, value: float) -> tuple[float, float]:
    width = _SIZE[0] - _LEFT - _RIGHT
    height = _SIZE[1] - _TOP - _BOTTOM
    return _LEFT + progress * width, _TOP + (1.0 - value) * height


def _axes(draw: ImageDraw.ImageDraw, title: str) -> None:
    small, large = ImageFont.load_default(13), ImageFont.load_default(15)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line([_point(0, tick), _point(1, tick)], fill=GRID)
        draw.line([_point(tick, 0), _point(tick, 1)], fill=GRID)
        x, y = _point(0, tick)
        draw.text((x - 8, y), f"{tick:g}", fill=INK, font=small, anchor="rm")
        x, y = _point(tick, 0)
        draw.text((x, y + 5), f"{tick:g}", fill=INK, font=small, anchor="mt")
    draw.line([_point(0, 1), _point(0, 0), _point(1, 0)], fill=INK)
    x, y = _point(0.5, 0)
    draw.text((x, y + 23), "progress of sampling", fill=INK, font=small, anchor="mt")
    draw.text((_LEFT, 9), title, fill=INK, font=large)


def _legend(draw: ImageDraw.ImageDraw) -> None:
    font = ImageFont.load_default(13)
    for name, colour, x in (("content", CONTENT, 450), ("style", STYLE, 550)):
        draw.line([(x, 17), (x + 22, 17)], fill=colour, width=4)
        draw.text((x + 28, 17), name, fill=INK, font=font, anchor="lm")
