"""A mean score with what it takes to read it: which encoder, which preprocessing, how many, how
sure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .crossed_bootstrap import crossed_interval


@dataclass(frozen=True)
class Score:
    """The mean of one measure over n pictures.

    low, high: its 95 % interval, None where nothing was repeated. over: the factors that the
    interval draws again, such as contents, styles, seeds. encoder, preprocessing: of the features.
    """

    measure: str
    mean: float
    low: float | None
    high: float | None
    n: int
    over: tuple[str, ...]
    encoder: str
    preprocessing: str


def mean_score(
    measure: str,
    values: Sequence[float] | np.ndarray,
    factors: Mapping[str, Sequence[Hashable]],
    encoder: str,
    preprocessing: str,
) -> Score:
    """The Score of n values; factors: as in crossed_interval, by name."""
    low, high = crossed_interval(values, tuple(factors.values())) or (None, None)
    mean = float(np.mean(np.asarray(values, float)))
    return Score(measure, mean, low, high, len(values), tuple(factors), encoder, preprocessing)
