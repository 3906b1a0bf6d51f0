"""Who acts where and when: a picture with a column for each layer and a row for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...craft_core.time import Moment
from ...craft_core.types import ROLES, Bank, Gates, Role
from ..engine.recorder import Record, Recorder
from .pictures import CONTENT, INK, PAPER, STYLE, to_image

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 720, 84, 14, 34, 34, 12
_STEP, _SHORT, _TALL = 10, 120, 300  # height of a step; of a map with few, and with many
_CURVES, _FAINT = 140, (190, 190, 190)  # width of the weights' curves beside a map
_SMALL, _LARGE = 20, 22  # a node shows the sheet at half its size or less
HEADING = "who acted where and when"


@dataclass(frozen=True)
class Activity:
    """How much each role acts on the conditional rows.

    amounts: (steps, layers, roles), absolute gates summed over a role's branches and averaged
    over views. layers: module paths in depth order. row: what a row is called. weights: (steps,
    roles), w(t) of a guidance rule; None where it has none or all are 1.
    """

    amounts: Tensor
    layers: tuple[str, ...]
    row: str = "step"
    weights: Tensor | None = None

    @classmethod
    def of(cls, bank: Bank, gates: Gates, moments: Sequence[Moment]) -> Activity:
        """The gates at each of these moments, a row each."""
        tables = [gates.at(moment) for moment in moments]
        return cls(_amounts(tables, [b.role for b in bank.branches]), bank.layers)

    @classmethod
    def recorded(cls, record: Record, steps: int) -> Activity:
        """From a recorded run: a row for each noise level the model was called at.

        steps: of the sampler; one that calls the model more often has more rows.
        """
        row = "step" if len(record.tables) == steps else "call"
        weights = torch.tensor([one or (1.0, 1.0) for one in record.weights])
        weights = weights if bool((weights != 1.0).any()) else None
        return cls(_amounts(record.tables, record.roles), record.layers, row, weights)


def _amounts(tables: Sequence[Tensor], roles: Sequence[Role]) -> Tensor:
    """(rows, layers, roles) of gate tables (views, layers, branches)."""
    of_role = torch.tensor([[float(own == role) for role in ROLES] for own in roles])
    of_role = of_role.reshape(len(roles), len(ROLES))  # (branches, roles)
    return torch.stack([table.abs().mean(dim=0) @ of_role for table in tables])


def activity_sheet(
    labels: Sequence[str], activities: Sequence[Activity | None], heading: str = ""
) -> Tensor:
    """IMAGE (1, h, w, 3): a map for each label, one below the other, all on one scale.

    None: nothing is known of it, as no run is recorded. heading: what the maps are.
    """
    known = [one for one in activities if one and one.layers]
    full = max((float(one.amounts.sum(dim=2).max()) for one in known), default=0)
    maps = [_map(label, one, full) for label, one in zip(labels, activities, strict=True)]
    height = _TOP + sum(picture.height for picture in maps) + _GAP * len(maps)
    sheet = Image.new("RGB", (_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _legend(draw)
    draw.text((14, 18), heading, fill=INK, font=_font(_SMALL), anchor="lm")
    y = _TOP
    for picture in maps:
        sheet.paste(picture, (0, y))
        y += picture.height + _GAP
    return to_image(sheet)


def recorded_sheet(recorder: Recorder, steps: int, sampler: str = "") -> Tensor | None:
    """The sheet of a run of `steps`, a map for each Router in it; None where nothing is routed.

    sampler: its title, for the heading; "" where the sheet is shown under the sampler itself.
    """
    records = list(recorder.records.values())
    if not records:
        return None
    heading = HEADING
    if records[0].took_more:
        heading += f", {records[0].evaluations.total()} evaluations"
    titles = [_clipped(f"{heading}: {sampler}" if sampler else heading)]
    titles += [f"Router {number} of {len(records)}" for number in range(2, len(records) + 1)]
    return activity_sheet(titles, [Activity.recorded(one, steps) for one in records])


def _clipped(title: str) -> str:
    """The title on one line, cut to the width of a map."""
    title = " ".join(title.split())
    room, end = _WIDTH - _LEFT - _RIGHT, min(len(title), _WIDTH)  # a letter is wider than a pixel
    clipped = title[:end]
    while _font(_LARGE).getlength(clipped) > room:
        end -= 1
        clipped = f"{title[:end].rstrip()}…"
    return clipped


def _map(label: str, activity: Activity | None, full: float) -> Image.Image:
    steps, layers = activity.amounts.shape[:2] if activity else (0, 0)
    tall = min(_TALL, max(_SHORT, steps * _STEP))
    wide = _WIDTH - _LEFT - _RIGHT
    if activity and activity.weights is not None:
        wide -= _CURVES
    picture = Image.new("RGB", (_WIDTH, _TOP + tall + _BOTTOM), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_LEFT, 4), ", ".join(label.split("\n")), fill=INK, font=_font(_LARGE))
    small = _font(_SMALL)
    if activity is None or not layers:
        text = "no run is recorded" if activity is None else "no branch acts"
        draw.text((_LEFT, _TOP + 4), text, fill=INK, font=small)
        return picture
    shrinks = layers > wide or steps > tall
    how = Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
    cells = Image.fromarray(_colours(activity.amounts, full)).resize((wide, tall), how)
    picture.paste(cells, (_LEFT, _TOP))
    draw.rectangle((_LEFT - 1, _TOP - 1, _LEFT + wide, _TOP + tall), outline=INK)
    for text, y in ((f"{activity.row} 1", _TOP + 9), (str(steps), _TOP + tall - 9)):
        draw.text((_LEFT - 6, y), text, fill=INK, font=small, anchor="rm")
    if activity.weights is not None:
        _curves(draw, activity.weights, (_LEFT + wide, _TOP, _WIDTH - _RIGHT, _TOP + tall))
    at = 0
    for part, paths in groupby(activity.layers, key=lambda path: path.split(".")[0]):
        count = len(list(paths))
        x, end = (_LEFT + round(wide * i / layers) for i in (at, at + count))
        draw.line([(x, _TOP + tall), (x, _TOP + tall + 10)], fill=INK, width=2)
        if draw.textlength(part, small) < end - x - 8:
            draw.text((x + 6, _TOP + tall + 3), part, fill=INK, font=small)
        at += count
    return picture


def _curves(draw: ImageDraw.ImageDraw, weights: Tensor, box: tuple[int, int, int, int]) -> None:
    """w(t) of both roles beside a map, a line each down its rows; 1 and the largest are marked."""
    left, top, right, bottom = box[0] + 26, box[1], box[2] - 10, box[3]
    low, high = min(1.0, float(weights.min())), max(1.0, float(weights.max()))
    high = max(high, low + 1e-6)

    def across(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    draw.line([(across(1.0), top), (across(1.0), bottom)], fill=_FAINT, width=1)
    rows = len(weights)
    for role, colour, aside in ((0, CONTENT, 0), (1, STYLE, 3)):  # beside each other where equal
        points = []
        for row, value in enumerate(weights[:, role].tolist()):
            x = across(value) + aside
            points += [(x, top + (bottom - top) * row / rows)]
            points += [(x, top + (bottom - top) * (row + 1) / rows)]
        draw.line(points, fill=colour, width=3)
    small = _font(_SMALL)
    for value in {low, high} if high - low > 1e-5 else {low}:
        draw.text((across(value), bottom + 3), f"{value:.3g}", fill=INK, font=small, anchor="ma")
    draw.text(((left + right) / 2, top - 4), "w(t)", fill=INK, font=small, anchor="mb")


def _colours(amounts: Tensor, full: float) -> np.ndarray:
    """(steps, layers, 3) uint8: the roles' colours mixed by share, paler where less acts.

    full: the sum of both roles that has the full colour.
    """
    both = amounts.sum(dim=2, keepdim=True)  # (steps, layers, 1)
    share = amounts / both.clamp(min=1e-12)
    hue = share @ torch.tensor([CONTENT, STYLE], dtype=torch.float32)
    depth = both / max(1e-12, full)
    paper = torch.tensor(PAPER, dtype=torch.float32)
    return (paper + depth * (hue - paper)).round().to(torch.uint8).numpy()


def _legend(draw: ImageDraw.ImageDraw) -> None:
    for name, colour, x in (("content", CONTENT, 500), ("style", STYLE, 625)):
        draw.rectangle((x, 9, x + 18, 27), fill=colour)
        draw.text((x + 26, 18), name, fill=INK, font=_font(_SMALL), anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
