"""Scores as a picture: a row for each scored picture, and below them the rows of the means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .comparison import Font, labelled_table, shown_pictures, text_size, write_centred
from .pictures import FAINT, PAPER, to_image

MOST_ROWS = 64  # of pictures; the report has all
_EDGE, _PAD, _SIZE = 96, 12, 15
_PICTURE = " "  # the heading of the column of pictures


@dataclass(frozen=True)
class ScoreRow:
    """A name, its picture (an IMAGE of one) if it is of one, and the text of each measure."""

    name: str
    picture: Tensor | None
    cells: Sequence[str]


def score_table(
    measures: Sequence[str], pictures: Sequence[ScoreRow], means: Sequence[ScoreRow]
) -> Tensor:
    """IMAGE (1, h, w, 3): the first MOST_ROWS of the pictures, then all means."""
    font = ImageFont.load_default(_SIZE)
    shown = [*pictures[:MOST_ROWS], *means]
    left_out = len(pictures) - MOST_ROWS
    wide = {
        measure: 2 * _PAD + max(text_size(text, font)[0] for text in (measure, *column))
        for measure, *column in zip(measures, *(row.cells for row in shown), strict=True)
    }
    table: dict[tuple[str, str], Image.Image] = {}
    labels = []
    for place, row in enumerate(shown):
        of_picture = row.picture is not None
        label = f"{place + 1}. {row.name}" if of_picture else f"mean of {row.name}"
        labels.append(label)
        tall = _EDGE if of_picture else 3 * _SIZE
        if row.picture is not None:
            table[label, _PICTURE] = shown_pictures(row.picture, _EDGE)[0]
            tall = table[label, _PICTURE].height
        for measure, text in zip(measures, row.cells, strict=True):
            table[label, measure] = _cell(text, (wide[measure], tall), font)
    if left_out > 0:
        labels.insert(MOST_ROWS, f"{left_out} further pictures")
        table[labels[MOST_ROWS], measures[0]] = _cell("", (wide[measures[0]], _SIZE), font)
    return to_image(labelled_table(labels, [_PICTURE, *measures], table, font))


def _cell(text: str, size: tuple[int, int], font: Font) -> Image.Image:
    """The text in the middle of a cell of (width, height), with a line below it."""
    cell = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(cell)
    draw.line([(0, cell.height - 1), (cell.width, cell.height - 1)], fill=FAINT)
    write_centred(draw, (cell.width / 2, cell.height / 2), text, font)
    return cell
