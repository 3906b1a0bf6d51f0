"""A table of pictures as one picture: references along the top and the left, pairs in the cells."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.utils
import torch
from torch import Tensor

THUMBNAIL = 256  # longest edge of a picture on the sheet, in pixels
SHEET = 8192  # longest edge of the whole sheet, where thumbnails can still shrink
GAP = 4
PAPER = 1.0  # white


def contact_sheet(
    row_heads: Sequence[Tensor], column_heads: Sequence[Tensor], cells: Sequence[Sequence[list]]
) -> Tensor:
    """(1, h, w, 3): an empty corner, the column heads, then each row's head and its cells.

    row_heads (N), column_heads (M): pictures (1, h, w, 3), all of one size.
    cells: N rows of M cells; a cell is a list of pictures of that size, drawn side by side,
    the same number in each.
    """
    side_by_side = len(cells[0][0])
    columns = len(column_heads) * side_by_side + 1
    height, width = _thumbnail(row_heads[0], len(row_heads) + 1, columns)
    cell_width = side_by_side * width + (side_by_side - 1) * GAP

    def strip(pictures: Sequence[Tensor], strip_width: int) -> Tensor:
        joined = _joined([_scaled(picture, height, width) for picture in pictures], axis=2)
        return _centred(joined, strip_width)

    blank = torch.full((1, height, width, 3), PAPER)
    top = _joined([blank, *(strip([head], cell_width) for head in column_heads)], axis=2)
    rows = [
        _joined([strip([head], width), *(strip(cell, cell_width) for cell in row)], axis=2)
        for head, row in zip(row_heads, cells, strict=True)
    ]
    return _joined([top, *rows], axis=1)


def _thumbnail(picture: Tensor, rows: int, columns: int) -> tuple[int, int]:
    """Height and width of a picture on the sheet; never larger than the picture, at least 1."""
    height, width = picture.shape[1], picture.shape[2]
    scale = min(
        1.0,
        THUMBNAIL / max(height, width),
        (SHEET / rows - GAP) / height,
        (SHEET / columns - GAP) / width,
    )
    return max(1, round(height * scale)), max(1, round(width * scale))


def _scaled(picture: Tensor, height: int, width: int) -> Tensor:
    moved = picture.movedim(-1, 1).float().cpu()
    return comfy.utils.common_upscale(moved, width, height, "area", "disabled").movedim(1, -1)


def _centred(picture: Tensor, width: int) -> Tensor:
    left = (width - picture.shape[2]) // 2
    right = width - picture.shape[2] - left
    return torch.nn.functional.pad(picture, (0, 0, left, right), value=PAPER)


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """The parts in a line along an axis, GAP pixels apart."""
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = torch.full(shape, PAPER, dtype=parts[0].dtype)
    spaced = [piece for part in parts for piece in (gap, part)][1:]
    return torch.cat(spaced, dim=axis)
