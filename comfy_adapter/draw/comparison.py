"""A labelled grid of pictures: a row for each method, a column for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...craft_core.errors import CraftError
from .pictures import INK, PAPER, to_image

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_GAP, _PAD = 6, 8
LARGEST = 32768  # pixels along a side of the grid


@dataclass(frozen=True)
class Cell:
    """A picture and where it goes."""

    row: str
    column: str
    picture: Tensor  # an IMAGE batch: its pictures stand side by side


def labelled(pictures: Sequence[Tensor], rows: Sequence[str], columns: Sequence[str]) -> list[Cell]:
    """Pictures with their labels; a single label is used for all pictures.

    CraftError where their numbers do not agree.
    """
    count = len(pictures)
    if not any(len(batch) for batch in pictures):
        raise CraftError(
            "The grid got no image", "It shows what a sampler made", "Connect images to it"
        )
    for name, labels in (("rows", rows), ("columns", columns)):
        if len(labels) not in (1, count):
            raise CraftError(
                f"{count} images and {len(labels)} {name}",
                "Each image has a row label and a column label, or all have the same",
                "Connect rows and columns from the node the images' models come from",
            )
    each = [list(labels) * (count if len(labels) == 1 else 1) for labels in (rows, columns)]
    return [Cell(*one) for one in zip(*each, pictures, strict=True)]


def comparison_grid(
    cells: Sequence[Cell],
    edge: int,
    heads: Sequence[tuple[str, Tensor]],
    texts: Mapping[tuple[str, str], str] | None = None,
    row_texts: Mapping[str, str] | None = None,
) -> Tensor:
    """IMAGE (1, h, w, 3): rows and columns in order of appearance, empty where nothing is.

    edge: longest edge of a picture, 0 for as it is. heads: named pictures above the grid, such as
    the references. texts: what stands below the pictures of a (row, column). row_texts: what stands
    below a row's label.
    """
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    table: dict[tuple[str, str], list[Image.Image]] = {}
    for cell in cells:
        table.setdefault((cell.row, cell.column), []).extend(shown_pictures(cell.picture, edge))
    table = {place: found for place, found in table.items() if found}
    strips = {place: in_a_row(found) for place, found in table.items()}
    font = ImageFont.load_default(max(13, max(one.height for one in strips.values()) // 18))
    for place, text in (texts or {}).items():
        strips[place] = _above(strips[place], _text_picture(text, font))
    said = {row: f"{row}\n\n{text}" for row, text in (row_texts or {}).items()}
    shown = {(said.get(row, row), column): strip for (row, column), strip in strips.items()}
    body = labelled_table([said.get(row, row) for row in rows], columns, shown, font)
    top = [
        _captioned(name, in_a_row(shown_pictures(picture, edge)), font) for name, picture in heads
    ]
    return to_image(_above(in_a_row(top), body) if top else body)


def labelled_table(
    rows: Sequence[str],
    columns: Sequence[str],
    strips: dict[tuple[str, str], Image.Image],
    font: Font,
) -> Image.Image:
    """A sheet with a picture at each (row, column) that has one, and the labels beside them."""
    widths = [max(s.width for (_, c), s in strips.items() if c == name) for name in columns]
    heights = [max(s.height for (r, _), s in strips.items() if r == name) for name in rows]
    left = max(text_size(name, font)[0] for name in rows) + 2 * _PAD
    top = max(text_size(name, font)[1] for name in columns) + 2 * _PAD
    width = left + sum(widths) + _GAP * len(widths)
    height = top + sum(heights) + _GAP * len(heights)
    if max(width, height) > LARGEST:
        raise CraftError(
            f"The grid would be {width} x {height} pixels",
            f"Each side can have {LARGEST}",
            "Set a smaller cell, or compare fewer at once",
        )
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    x = left
    for name, wide in zip(columns, widths, strict=True):
        write_centred(draw, (x + wide / 2, top / 2), name, font)
        x += wide + _GAP
    y = top
    for row, tall in zip(rows, heights, strict=True):
        write_centred(draw, (left / 2, y + tall / 2), row, font)
        x = left
        for column, wide in zip(columns, widths, strict=True):
            if (row, column) in strips:
                sheet.paste(strips[row, column], (x, y))
            x += wide + _GAP
        y += tall + _GAP
    return sheet


def _text_picture(text: str, font: Font) -> Image.Image:
    wide, tall = text_size(text, font)
    sheet = Image.new("RGB", (wide + _PAD, tall + _PAD), PAPER)
    write_centred(ImageDraw.Draw(sheet), (sheet.width / 2, sheet.height / 2), text, font)
    return sheet


def _captioned(name: str, picture: Image.Image, font: Font) -> Image.Image:
    wide, tall = text_size(name, font)
    sheet = Image.new(
        "RGB", (max(picture.width, wide + _PAD), picture.height + tall + 2 * _PAD), PAPER
    )
    sheet.paste(picture, ((sheet.width - picture.width) // 2, tall + 2 * _PAD))
    write_centred(ImageDraw.Draw(sheet), (sheet.width / 2, tall / 2 + _PAD), name, font)
    return sheet


def shown_pictures(images: Tensor, edge: int) -> list[Image.Image]:
    """Each picture of an IMAGE batch, no side longer than edge; small ones enlarged by whole
    numbers, so that their pixels stay."""
    found = []
    for one in images:
        colour = one[..., :3] if one.shape[-1] >= 3 else one[..., :1].expand(*one.shape[:-1], 3)
        values = colour.float().cpu().clamp(0, 1) * 255
        picture = Image.fromarray(values.round().to(torch.uint8).contiguous().numpy())
        longest = max(picture.size)
        if edge and longest > edge:
            wide, tall = (max(1, round(side * edge / longest)) for side in picture.size)
            picture = picture.resize((wide, tall), Image.Resampling.LANCZOS)
        elif edge >= 2 * longest:
            times = edge // longest
            picture = picture.resize(
                (picture.width * times, picture.height * times), Image.Resampling.NEAREST
            )
        found.append(picture)
    return found


def in_a_row(pictures: Sequence[Image.Image]) -> Image.Image:
    """One picture of them all, in a row."""
    width = sum(one.width for one in pictures) + _GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(one.height for one in pictures)), PAPER)
    x = 0
    for one in pictures:
        sheet.paste(one, (x, 0))
        x += one.width + _GAP
    return sheet


def _above(first: Image.Image, second: Image.Image) -> Image.Image:
    sheet = Image.new(
        "RGB", (max(first.width, second.width), first.height + _GAP + second.height), PAPER
    )
    sheet.paste(first, ((sheet.width - first.width) // 2, 0))
    sheet.paste(second, (0, first.height + _GAP))
    return sheet


def text_size(text: str, font: Font) -> tuple[int, int]:
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox(
        (0, 0), text, font=font
    )
    return round(right - left), round(bottom - top)


def write_centred(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, font: Font
) -> None:
    draw.multiline_text(at, text, fill=INK, font=font, anchor="mm", align="center")
