"""A labelled grid of pictures with the scores of each, its rows sorted by a score if asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.evaluation import Point
from ...craft_core.evaluation.pair_columns import HARMONIC
from ...craft_core.types import Role
from ..draw.comparison import Cell, comparison_grid
from ..score.scoring import (
    ROLES,
    best_first,
    lines_by_group,
    means_by_group,
    means_text,
    pair_points,
    report_text,
    score_pictures,
)
from ..score.vision import encoders_by_role

AS_GIVEN = "as given"
ORDERS = [AS_GIVEN, HARMONIC, *ROLES]


@dataclass(frozen=True)
class ScoredGrid:
    """grid: IMAGE. report: every picture's scores and the rows' means; "" where nothing is scored.
    points: content against style, one for each row."""

    grid: Tensor
    report: str
    points: list[Point]


@dataclass(frozen=True)
class Judges:
    """What pictures are scored with. references: IMAGE batches by role, None among them for one
    that is not connected. encoders, style_encoders: what the nodes' clip_vision inputs got, a list
    each."""

    references: Mapping[Role, Sequence[Any]]
    encoders: Sequence[Any]
    style_encoders: Sequence[Any]

    @property
    def any(self) -> bool:
        return any(given is not None for given in (*self.encoders, *self.style_encoders))

    def scores(self, pictures: Sequence[Tensor], names: Sequence[str] = ()) -> Any:
        """PictureScores of IMAGE batches."""
        encoders = encoders_by_role(self.encoders, self.style_encoders)
        return score_pictures(pictures, self.references, encoders, names)


def check_order(order: str, judges: Judges) -> None:
    """CraftError where rows are to be sorted by a score that nobody gives."""
    if order != AS_GIVEN and not judges.any:
        raise CraftError(
            f"sort_by is {order}, and nothing is scored",
            "Rows are sorted by scores of clip_vision",
            f"Connect clip_vision, or set sort_by to {AS_GIVEN}",
        )


def scored_grid(cells: Sequence[Cell], edge: int, judges: Judges, order: str) -> ScoredGrid:
    """edge: as in comparison_grid. order: of the rows, one of ORDERS. The references are above the
    grid. CraftError where there are pictures to score and no reference."""
    check_order(order, judges)
    heads = [
        (name, picture)
        for name, given in judges.references.items()
        for picture in given
        if picture is not None
    ]
    if not judges.any:
        return ScoredGrid(comparison_grid(cells, edge, heads), "", [])
    places = [(spot.row, spot.column) for spot in cells for _ in spot.picture]
    names = [row for row, _ in places]
    scores = judges.scores([spot.picture for spot in cells], names)
    means = means_by_group(scores, names)
    texts = lines_by_group(scores, places)
    if order != AS_GIVEN:
        means = best_first(means, order)
        ranks = {row: rank for rank, row in enumerate(means)}
        cells = sorted(cells, key=lambda spot: ranks.get(spot.row, len(ranks)))
    row_texts = {row: means_text(found) for row, found in means.items()}
    grid = comparison_grid(cells, edge, heads, texts, row_texts)
    return ScoredGrid(grid, report_text(scores), pair_points(means))
