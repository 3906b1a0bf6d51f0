"""The figures of `methods.py`, from what its journal holds; numbers alone, no host.

Intervals and tests are Student's: the standard error is that of a bootstrap over contents and
styles, and the degrees of freedom are one less than the contents or styles that there are,
whichever are fewer. Percentiles of the same draws would be too narrow where there are few: with
four styles they find a difference in more than a tenth of all measurements of none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

DRAWS = 4000
LEVEL, POWER = 0.05, 0.8
Pair = tuple[str, str]
Point = TypeVar("Point")


def draws(pairs: Sequence[Pair], count: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(count + 1, pairs) weights that sum to 1: all alike, then each draw's.

    Contents and styles are drawn again with replacement, each by itself, and a pair weighs the
    product (Owen 2007, arXiv 0712.1111). A draw that leaves no pair is drawn again.
    """
    rng = np.random.default_rng(seed)
    places = [np.unique([pair[k] for pair in pairs], return_inverse=True)[1] for k in (0, 1)]
    rows = [np.full(len(pairs), 1 / len(pairs))]
    while len(rows) <= count:
        weight = np.ones(len(pairs))
        for place in places:
            size = place.max() + 1
            weight = weight * rng.multinomial(size, np.full(size, 1 / size))[place]
        if weight.sum() > 0:
            rows.append(weight / weight.sum())
    return np.array(rows)


def levels(pairs: Sequence[Pair]) -> int:
    """The contents or the styles, whichever are fewer."""
    return min(len({pair[k] for pair in pairs}) for k in (0, 1))


def standard_error(values: np.ndarray, count: int) -> float:
    """values: the figure for all pairs, then for each draw. count: `levels`. Infinite for one."""
    return float(values[1:].std()) * (count / (count - 1)) ** 0.5 if count > 1 else float("inf")


def columns(rows: Sequence, judge: int | None) -> np.ndarray:
    """Of a pair's result (pictures, judges, 4): (4,) means of geo, content, style, both right.

    geo = sqrt(content cosine x style cosine). judge: None for the mean of all judges.
    """
    given = np.asarray(rows, float)
    given = given if judge is None else given[:, [judge]]
    content, style = given[..., 0], given[..., 1]
    both = given[..., 2] * given[..., 3]
    return np.array([one.mean() for one in (np.sqrt(content * style), content, style, both)])


@dataclass(frozen=True)
class Interval:
    """A figure, and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, count: int, share: bool = False) -> Interval:
        """values: the figure for all pairs, then for each draw. count: `levels`. share: whether it
        lies between 0 and 1."""
        value, error = float(values[0]), standard_error(values, count)
        half = error * stats.t.ppf(1 - LEVEL / 2, max(count - 1, 1)) if error else 0.0
        low, high = value - half, value + half
        return cls(value, max(low, 0.0), min(high, 1.0)) if share else cls(value, low, high)

    def said(self, signed: bool = False) -> str:
        middle, low, high = (f"{v:+.3f}" if signed else f"{v:.2f}"
                             for v in (self.value, self.low, self.high))  # fmt: skip
        return f"{middle} [{low}, {high}]"


@dataclass(frozen=True)
class Row:
    """What a way comes to over the pairs. way: the share of the way from no LoRA (0) to the true
    render (1) in geo. less: that share less the reference's. p: of no difference, uncorrected.
    error: the standard error of `less`. None for the reference."""

    name: str
    way: Interval
    content: Interval
    style: Interval
    both: Interval
    less: Interval | None
    p: float | None
    error: float | None


def table(
    results: Mapping[str, Mapping[Pair, Sequence]],
    nothing: str,
    truth: str,
    reference: str,
    judge: int | None = None,
) -> list[Row]:
    """Rows for the names in `results`, in their order, over the pairs that all of them have.

    results: of a name, each pair's result. The reference is the row that the others are compared
    with, pair by pair in the same draws.
    """
    pairs = [pair for pair in results[truth] if all(pair in one for one in results.values())]
    assert pairs, "no pair was measured in every way"
    count = levels(pairs)
    drawn = drawn_means(results, pairs, nothing, truth, judge)
    rows = []
    for name, mean in drawn.items():
        less = None if name == reference else mean[:, 0] - drawn[reference][:, 0]
        rows.append(
            Row(
                name, Interval.of(mean[:, 0], count),
                *(Interval.of(mean[:, k], count, share=True) for k in (1, 2, 3)),
                None if less is None else Interval.of(less, count),
                None if less is None else p_value(less, count),
                None if less is None else standard_error(less, count),
            )
        )  # fmt: skip
    return rows


def drawn_means(
    results: Mapping[str, Mapping[Pair, Sequence]],
    pairs: Sequence[Pair],
    nothing: str,
    truth: str,
    judge: int | None = None,
) -> dict[str, np.ndarray]:
    """{name: (draws + 1, 4)}: share of the way, content, style and both right, of all pairs and of
    each draw; the same draws for every name."""
    weights = draws(pairs)
    means = {
        name: weights @ np.array([columns(one[pair], judge) for pair in pairs])
        for name, one in results.items()
    }
    start, far = means[nothing][:, 0].copy(), means[truth][:, 0] - means[nothing][:, 0]
    for mean in means.values():
        mean[:, 0] = (mean[:, 0] - start) / far
    return means


def differences(
    results: Mapping[str, Mapping[Pair, Sequence]],
    compared: Sequence[tuple[str, str]],
    nothing: str,
    truth: str,
) -> dict[tuple[str, str], tuple[Interval, Interval, Interval]]:
    """The first name of each two less the second: share of the way, content and style, pair by
    pair in the same draws."""
    pairs = [pair for pair in results[truth] if all(pair in one for one in results.values())]
    drawn, count = drawn_means(results, pairs, nothing, truth), levels(pairs)
    return {
        (one, other): tuple(
            Interval.of((drawn[one] - drawn[other])[:, k], count) for k in (0, 1, 2)
        )
        for one, other in compared
    }  # type: ignore[return-value]


def smallest_found(error: float, count: int, tests: int = 1) -> float:
    """The smallest true difference that 80 % of such measurements find at p < .05, or at that
    divided by the number of tests, which is where Holm's correction begins. count: `levels`."""
    free = max(count - 1, 1)
    return error * float(stats.t.ppf(1 - LEVEL / tests / 2, free) + stats.t.ppf(POWER, free))


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: how far two lists of figures have their rows in the same order; ties share."""
    places = []
    for figures in (np.asarray(first, float), np.asarray(second, float)):
        below = (figures[:, None] > figures).sum(1)
        places.append(below + (figures[:, None] == figures).sum(1) / 2)
    return float(np.corrcoef(*places)[0, 1])


def p_value(values: np.ndarray, count: int) -> float:
    """Two-sided, of no difference. values: the difference for all pairs, then for each draw.
    count: `levels`."""
    error = standard_error(values, count)
    if not error:
        return float(values[0] == 0)
    return float(2 * stats.t.sf(abs(values[0]) / error, max(count - 1, 1)))


def best_point(results: Mapping[Point, Mapping[Pair, Sequence]]) -> Point:
    """The point of a grid whose mean geo is highest over the pairs that all points have."""
    pairs = set.intersection(*(set(one) for one in results.values()))
    assert pairs, "no pair was measured at every point"
    return max(
        results,
        key=lambda p: np.mean([columns(results[p][pair], None)[0] for pair in sorted(pairs)]),
    )
