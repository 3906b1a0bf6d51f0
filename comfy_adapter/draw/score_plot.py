"""Settings by their content and style scores, as one picture: points, intervals, the frontier."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...craft_core.evaluation import Point, frontier, surely_below
from .comparison import text_size
from .pictures import CONTENT, FAINT, GRID, INK, PAPER, STYLE, to_image

_SIDE, _LEFT, _TOP, _BOTTOM, _PAD = 560, 84, 62, 66, 14
_RADIUS, _RING = 11, 16
_LETTERS = 44  # of a name in a line of the list
_TICKS = 6
_EDGE = (140, 100, 190)  # of the frontier's line
_EMPTY = (640, 120)
_SMALL, _FONT = ImageFont.load_default(13), ImageFont.load_default(15)
_ON, _NEAR, _BELOW = "on", "near", "below"
_ORDER = {_BELOW: 0, _NEAR: 1, _ON: 2}  # what is drawn later covers what was drawn before
_MEANINGS = {
    _ON: "on the frontier: no other is better at both",
    _NEAR: "below it, but an interval reaches that of a better one",
    _BELOW: "below it by both intervals",
}
_BEYOND = "better at both: up and to the right"


@dataclass(frozen=True)
class _Scale:
    """Which pixels stand for which numbers, along one side of the plot."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def score_plot(points: Sequence[Point], title: str, best: int | None = None) -> Tensor:
    """score_sheet as an IMAGE (1, h, w, 3)."""
    return to_image(score_sheet(points, title, best))


def score_sheet(points: Sequence[Point], title: str, best: int | None = None) -> Image.Image:
    """Content to the right, style upwards, the points' names beside it.

    best: the place of a point to put a ring around, the best by the harmonic mean. Without points:
    the title alone.
    """
    if not points:
        empty = Image.new("RGB", _EMPTY, PAPER)
        centre = (_EMPTY[0] / 2, _EMPTY[1] / 2)
        ImageDraw.Draw(empty).text(centre, title, fill=INK, font=_FONT, anchor="mm")
        return empty
    names = [textwrap.wrap(", ".join(one.name.split("\n")), _LETTERS) or [""] for one in points]
    across, up = _scale([one.content for one in points]), _scale([one.style for one in points])
    looks = _looks(points)
    listed = _list_picture(points, names, looks, best)
    height = max(_TOP + _SIDE + _BOTTOM, _TOP + listed.height + _PAD)
    width = _LEFT + _SIDE + 2 * _PAD + listed.width + _PAD
    sheet = Image.new("RGB", (max(width, text_size(title, _FONT)[0] + 2 * _PAD), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_PAD, _PAD), title, fill=INK, font=_FONT)
    draw.text((_LEFT + _SIDE, _TOP - 8), _BEYOND, fill=INK, font=_SMALL, anchor="rb")
    _axes(sheet, draw, across, up)
    spots = [_spot(across, up, *one.means) for one in points]
    _staircase(draw, [spots[place] for place in frontier(points)])
    _bars(draw, points, across, up, looks)
    for place, spot in sorted(enumerate(spots), key=lambda one: _ORDER[looks[one[0]]]):
        _mark(draw, spot, str(place + 1), looks[place], place == best)
    sheet.paste(listed, (_LEFT + _SIDE + 2 * _PAD, _TOP))
    return sheet


def _looks(points: Sequence[Point]) -> list[str]:
    best, below = set(frontier(points)), set(surely_below(points))
    return [
        _ON if place in best else _BELOW if place in below else _NEAR
        for place in range(len(points))
    ]


def _scale(scores: Sequence) -> _Scale:
    """From the lowest to the highest end of an interval, with some room, and round ticks."""
    ends = [end for one in scores for end in (one.low, one.mean, one.high) if end is not None]
    room = max(0.08 * (max(ends) - min(ends)), 0.005)
    low, high = min(ends) - room, max(ends) + room
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return _Scale(low, high, tuple(round(k * step, 6) for k in range(first, last + 1)))


def _spot(across: _Scale, up: _Scale, content: float, style: float) -> tuple[float, float]:
    return _LEFT + across.share(content) * _SIDE, _TOP + (1 - up.share(style)) * _SIDE


def _axes(sheet: Image.Image, draw: ImageDraw.ImageDraw, across: _Scale, up: _Scale) -> None:
    left, right, top, bottom = _LEFT, _LEFT + _SIDE, _TOP, _TOP + _SIDE
    for tick in across.ticks:
        x, _ = _spot(across, up, tick, up.low)
        draw.line([(x, top), (x, bottom)], fill=GRID)
        draw.text((x, bottom + 6), f"{tick:g}", fill=INK, font=_SMALL, anchor="mt")
    for tick in up.ticks:
        _, y = _spot(across, up, across.low, tick)
        draw.line([(left, y), (right, y)], fill=GRID)
        draw.text((left - 8, y), f"{tick:g}", fill=INK, font=_SMALL, anchor="rm")
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=INK)
    middle = ((left + right) / 2, bottom + 30)
    draw.text(middle, "content: likeness to its reference", fill=CONTENT, font=_FONT, anchor="mt")
    words = "style: likeness to its reference"
    wide, tall = text_size(words, _FONT)
    label = Image.new("RGB", (wide + 4, tall + 8), PAPER)
    ImageDraw.Draw(label).text((2, 2), words, fill=STYLE, font=_FONT)
    label = label.rotate(90, expand=True)
    sheet.paste(label, (_PAD, round((top + bottom - label.height) / 2)))


def _bars(
    draw: ImageDraw.ImageDraw,
    points: Sequence[Point],
    across: _Scale,
    up: _Scale,
    looks: Sequence[str],
) -> None:
    """Each point's intervals, a line along either axis."""
    for point, look in zip(points, looks, strict=True):
        colour = FAINT if look == _BELOW else INK
        content, style = point.content, point.style
        if content.low is not None and content.high is not None:
            ends = [_spot(across, up, end, style.mean) for end in (content.low, content.high)]
            draw.line(ends, fill=colour)
        if style.low is not None and style.high is not None:
            ends = [_spot(across, up, content.mean, end) for end in (style.low, style.high)]
            draw.line(ends, fill=colour)


def _staircase(draw: ImageDraw.ImageDraw, spots: Sequence[tuple[float, float]]) -> None:
    """The border of what the frontier's points beat."""
    corners = [(_LEFT, spots[0][1])]
    for spot, after in zip(spots, [*spots[1:], (_LEFT + _SIDE, _TOP + _SIDE)], strict=True):
        corners += [spot, (spot[0], after[1])]
    draw.line(corners, fill=_EDGE, width=4)


def _mark(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], number: str, look: str, ring: bool
) -> None:
    x, y = at
    paper, ink = {_ON: (INK, PAPER), _NEAR: (PAPER, INK), _BELOW: (FAINT, PAPER)}[look]
    if ring:
        draw.ellipse([x - _RING, y - _RING, x + _RING, y + _RING], outline=STYLE, width=3)
    disc = [x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS]
    draw.ellipse(disc, fill=paper, outline=FAINT if look == _BELOW else INK)
    draw.text((x, y), number, fill=ink, font=_SMALL, anchor="mm")


def _list_picture(
    points: Sequence[Point], names: Sequence[Sequence[str]], looks: Sequence[str], best: int | None
) -> Image.Image:
    """Number, name, content and style of each point, and what the marks mean."""
    line = _SMALL.getbbox("Ag")[3] + 5
    wide = max(text_size(part, _SMALL)[0] for name in names for part in name)
    at_content = 3 * _RING + max(wide, 120) + 70
    at_style = at_content + 64
    shown = [one for one in _MEANINGS.items() if one[0] in looks]
    rings = 1 if best is not None else 0
    rows = [max(len(name) * line, 2 * _RING) + 4 for name in names]
    height = line + sum(rows) + _PAD + (len(shown) + rings + 2) * 2 * _RING
    sheet = Image.new("RGB", (max(at_style, 420) + _PAD, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((at_content, 0), "content", fill=CONTENT, font=_SMALL, anchor="rt")
    draw.text((at_style, 0), "style", fill=STYLE, font=_SMALL, anchor="rt")
    y = line
    for place, (point, name, tall) in enumerate(zip(points, names, rows, strict=True)):
        middle = y + tall / 2
        _mark(draw, (_RING, middle), str(place + 1), looks[place], place == best)
        text = "\n".join(name)
        draw.multiline_text((3 * _RING, middle), text, fill=INK, font=_SMALL, anchor="lm")
        for x, score in ((at_content, point.content), (at_style, point.style)):
            draw.text((x, middle), f"{score.mean:.3f}", fill=INK, font=_SMALL, anchor="rm")
        y += tall
    y += _PAD + _RING
    for look, meaning in shown:
        _mark(draw, (_RING, y), "", look, False)
        draw.text((3 * _RING, y), meaning, fill=INK, font=_SMALL, anchor="lm")
        y += 2 * _RING
    if best is not None:
        draw.ellipse([2, y - _RING + 2, 2 * _RING - 2, y + _RING - 2], outline=STYLE, width=3)
        draw.text((3 * _RING, y), "best by the harmonic mean", fill=INK, font=_SMALL, anchor="lm")
        y += 2 * _RING
    draw.text((3 * _RING, y), "the frontier", fill=INK, font=_SMALL, anchor="lm")
    draw.line([(3, y), (2 * _RING - 3, y)], fill=_EDGE, width=4)
    y += 2 * _RING
    bars = "lines through a point: 95 % intervals over its pictures"
    draw.text((3 * _RING, y), bars, fill=INK, font=_SMALL, anchor="lm")
    draw.line([(3, y), (2 * _RING - 3, y)], fill=INK)
    return sheet
