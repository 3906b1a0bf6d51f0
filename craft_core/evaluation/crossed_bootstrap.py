"""The interval of a mean over pictures that share contents, styles and seeds.

Owen 2007 (The pigeonhole bootstrap, arXiv 0712.1111), for any number of factors Owen and Eckles
2012 (arXiv 1106.2125): levels of every factor are drawn again with replacement, each factor by
itself, and a picture weighs the product of how often its levels were drawn. Drawing pictures
instead would take sixty pictures of three objects for sixty objects.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

RESAMPLED = 2000


def crossed_interval(
    values: Sequence[float] | np.ndarray,
    factors: Sequence[Sequence[Hashable]],
    *,
    level: float = 0.95,
    resampled: int = RESAMPLED,
    seed: int = 0,
) -> tuple[float, float] | None:
    """(low, high) of the mean of n values, by percentiles of `resampled` means.

    factors: for each factor the n levels of the values, such as their contents, styles and seeds.
    None where no factor has two levels, since nothing was repeated. With few levels, below ten or
    so, the interval comes out too narrow. AssertionError where the numbers do not agree.
    """
    given = np.asarray(values, float)
    assert given.ndim == 1 and len(given) > 0 and all(len(one) == len(given) for one in factors)
    places = [_places(levels) for levels in factors]
    if not any(place.max() > 0 for place in places):
        return None
    rng, means = np.random.default_rng(seed), []
    for _ in range(resampled):
        weight = np.ones(len(given))
        for place in places:
            count = place.max() + 1
            weight = weight * rng.multinomial(count, np.full(count, 1 / count))[place]
        if weight.sum() > 0:  # else no picture has levels that were all drawn
            means.append((weight * given).sum() / weight.sum())
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _places(levels: Sequence[Hashable]) -> np.ndarray:
    """The level of each value as a number, in order of appearance."""
    known = {level: place for place, level in enumerate(dict.fromkeys(levels))}
    return np.array([known[level] for level in levels])
