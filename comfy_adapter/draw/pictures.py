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
FAINT = (190, 200, 215)
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


def loss_picture(losses: Sequence[float], steps: int) -> Image.Image:
    """A training's loss curve so far, every step grey and a running mean over it."""
    image = Image.new("RGB", _SIZE, PAPER)
    draw = ImageDraw.Draw(image)
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    scaled = [(value - low) / span for value in losses]
    _frame(draw, (f"{low:.3g}", f"{high:.3g}"), f"{len(losses)} of {steps} steps")
    title = f"loss {losses[-1]:.4g}"
    draw.text((_LEFT, 9), title, fill=INK, font=ImageFont.load_default(15))
    for values, colour, width in ((scaled, FAINT, 1), (_smoothed(scaled), CONTENT, 4)):
        points = [_point(i / max(1, steps - 1), value) for i, value in enumerate(values)]
        if len(points) == 1:
            points *= 2
        draw.line(points, fill=colour, width=width, joint="curve")
    return image


def side_by_side(image: Image.Image, picture: Tensor) -> Image.Image:
    """An image and right of it, as high, a picture (height, width, 3) in [0, 1]."""
    height, width, _ = picture.shape
    pixels = Image.fromarray((picture * 255).round().byte().numpy())
    scaled = pixels.resize((max(1, round(width * image.height / height)), image.height))
    made = Image.new("RGB", (image.width + scaled.width, image.height), PAPER)
    made.paste(image, (0, 0))
    made.paste(scaled, (image.width, 0))
    return made


def _frame(draw: ImageDraw.ImageDraw, ends: tuple[str, str], below: str) -> None:
    small = ImageFont.load_default(13)
    for height, text in zip((0, 1), ends, strict=True):
        x, y = _point(0, height)
        draw.text((x - 8, y), text, fill=INK, font=small, anchor="rm")
    draw.line([_point(0, 1), _point(0, 0), _point(1, 0)], fill=INK)
    x, y = _point(0.5, 0)
    draw.text((x, y + 12), below, fill=INK, font=small, anchor="mt")


def _smoothed(values: Sequence[float]) -> list[float]:
    """Means over the last twentieth of the curve up to each step."""
    window = max(1, len(values) // 20)
    total, means = 0.0, []
    for index, value in enumerate(values):
        total += value
        if index >= window:
            total -= values[index - window]
        means.append(total / min(window, index + 1))
    return means


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
