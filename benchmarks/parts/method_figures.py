"""The figures of `methods.py`, from what its journal holds; numbers alone, no host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

DRAWS = 4000
POWER = 1.96 + 0.84  # standard errors: p < .05, two-sided, in 80 % of measurements
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
    def of(cls, values: np.ndarray) -> Interval:
        """values: the figure for all pairs, then for each draw."""
        low, high = np.quantile(values[1:], (0.025, 0.975))
        return cls(float(values[0]), float(low), float(high))

    def said(self, signed: bool = False) -> str:
        middle, low, high = (f"{v:+.3f}" if signed else f"{v:.2f}"
                             for v in (self.value, self.low, self.high))  # fmt: skip
        return f"{middle} [{low}, {high}]"


@dataclass(frozen=True)
class Row:
    """What a way comes to over the pairs. way: the share of the way from no LoRA (0) to the true
    render (1) in geo. less: that share less the reference's. p: of no difference, uncorrected.
    found: the smallest true difference that 80 % of such measurements find at p < .05. None for
    the reference."""

    name: str
    way: Interval
    content: Interval
    style: Interval
    both: Interval
    less: Interval | None
    p: float | None
    found: float | None


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
    weights = draws(pairs)
    means = {
        name: weights @ np.array([columns(one[pair], judge) for pair in pairs])
        for name, one in results.items()
    }  # (draws, 4)
    far = means[truth][:, 0] - means[nothing][:, 0]
    share = {name: (mean[:, 0] - means[nothing][:, 0]) / far for name, mean in means.items()}
    rows = []
    for name, mean in means.items():
        less = None if name == reference else share[name] - share[reference]
        rows.append(
            Row(
                name, Interval.of(share[name]), *(Interval.of(mean[:, k]) for k in (1, 2, 3)),
                None if less is None else Interval.of(less),
                None if less is None else p_value(less[1:]),
                None if less is None else POWER * float(less[1:].std()),
            )
        )  # fmt: skip
    return rows


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: how far two lists of figures have their rows in the same order; ties share."""
    places = []
    for figures in (np.asarray(first, float), np.asarray(second, float)):
        below = (figures[:, None] > figures).sum(1)
        places.append(below + (figures[:, None] == figures).sum(1) / 2)
    return float(np.corrcoef(*places)[0, 1])


def p_value(differences: np.ndarray) -> float:
    """Two-sided, of no difference: twice the smaller share of draws on either side of 0."""
    below, above = (differences <= 0).mean(), (differences >= 0).mean()
    return float(min(1.0, 2 * max(min(below, above), 1 / len(differences))))


def best_point(results: Mapping[Point, Mapping[Pair, Sequence]]) -> Point:
    """The point of a grid whose mean geo is highest over the pairs that all points have."""
    pairs = set.intersection(*(set(one) for one in results.values()))
    assert pairs, "no pair was measured at every point"
    return max(
        results,
        key=lambda p: np.mean([columns(results[p][pair], None)[0] for pair in sorted(pairs)]),
    )
