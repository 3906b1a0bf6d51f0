"""The picture of `methods.py --shown`: what each way makes of the pairs nearest the median."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from benchmarks.parts.method_figures import Pair, Row, columns
from small_world.train.measuring.shown import chosen

PAIRS = 5
EDGE = 96  # of a picture, in pixels


def median_pairs(results: Sequence[Mapping[Pair, Sequence]], count: int = PAIRS) -> list[Pair]:
    """The pairs whose mean geo over all rows is nearest the median's, each object and style once.

    results: of each row, {pair: result}.
    """
    pairs = set.intersection(*(set(one) for one in results))
    scored = {pair: float(np.mean([columns(one[pair], None)[0] for one in results]))
              for pair in pairs}  # fmt: skip
    return chosen(scored, count)[1]


def best_of_each(rows: Sequence[Row], keys: Mapping[str, tuple[str, str]]) -> list[Row]:
    """The better rule of every way, best first. keys: a row's name -> (way, rule)."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: -row.way.value):
        best.setdefault(keys[row.name][0], row)
    return list(best.values())


def pairs_sheet(
    pairs: Sequence[Pair],
    references: Mapping[Pair, Sequence[np.ndarray]],
    drawn: Mapping[str, Sequence[torch.Tensor]],
) -> Image.Image:
    """A column for each pair: the two references, then a row for each name in `drawn`.

    references: (H, W, 3) uint8. drawn: a row's label -> of each pair (3, H, W) in [-1, 1].
    """
    from launcher.pack import as_package

    as_package()
    from craft_lora_pack.comfy_adapter.draw.comparison import Cell, comparison_grid

    def called(pair: Pair) -> str:
        return "\n".join(pair)

    cells = [
        Cell(label, called(pair), torch.from_numpy(references[pair][k] / np.float32(255))[None])
        for k, label in enumerate(("content reference", "style reference"))
        for pair in pairs
    ]  # fmt: skip
    cells += [
        Cell(label, called(pair), (picture.movedim(0, -1)[None].float().clamp(-1, 1) + 1) / 2)
        for label, some in drawn.items()
        for pair, picture in zip(pairs, some, strict=True)
    ]
    grid = comparison_grid([_enlarged(cell) for cell in cells], 0, ())
    return Image.fromarray((grid[0].numpy() * 255).round().astype(np.uint8))


def _enlarged(cell):
    """The pictures are small: each is shown larger."""
    picture = cell.picture.movedim(-1, 1)
    large = torch.nn.functional.interpolate(picture, size=(EDGE, EDGE), mode="bicubic")
    return type(cell)(cell.row, cell.column, large.clamp(0, 1).movedim(1, -1))
