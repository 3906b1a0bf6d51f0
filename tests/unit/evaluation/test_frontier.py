"""The frontier holds what nothing beats, and every mean of both scores is best on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from craft_lora_pack.craft_core.evaluation import (
    Point,
    Score,
    frontier,
    harmonic_mean,
    surely_below,
)


def score(mean: float, half: float | None = None) -> Score:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Score("content", mean, low, high, 4, ("pictures",), "an encoder", "resized")


def points(pairs, half: float | None = None) -> list[Point]:
    return [Point(str(k), score(c, half), score(s, half)) for k, (c, s) in enumerate(pairs)]


def test_a_frontier_by_hand():
    """(.5, .5) is beaten by (.6, .6); (.6, .4) has the content of (.6, .6) and less style."""
    given = points([(0.9, 0.1), (0.5, 0.5), (0.6, 0.6), (0.6, 0.4), (0.2, 0.8)])
    assert frontier(given) == [4, 2, 0]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_on_the_frontier_is_beaten_and_all_else_is_by_a_point_on_it(seed):
    pairs = np.random.default_rng(seed).random((40, 2)).round(1)  # rounded: with equal ones
    found = frontier(points(pairs))
    for place, pair in enumerate(pairs):
        beaten = any((pairs[k] >= pair).all() and (pairs[k] > pair).any() for k in found)
        assert beaten == (place not in found)
    content, style = pairs[found].T
    assert (np.diff(content) >= 0).all() and (np.diff(style) <= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_best_by_a_mean_of_both_is_on_the_frontier(seed):
    pairs = np.random.default_rng(seed).random((40, 2))
    found = frontier(points(pairs))
    for measure in (pairs[:, 0], pairs[:, 1], harmonic_mean(tuple(torch.tensor(pairs.T))).numpy()):
        assert int(np.argmax(measure)) in found


def test_what_is_surely_below_has_intervals_that_do_not_touch():
    pairs = [(0.8, 0.8), (0.7, 0.7), (0.5, 0.5), (0.5, 0.79)]
    assert surely_below(points(pairs)) == [1, 2, 3]
    assert surely_below(points(pairs, 0.04)) == [1, 2]
    assert surely_below(points(pairs, 0.06)) == [2]
    assert surely_below(points(pairs, 0.5)) == []


def test_of_equal_points_all_are_on_it_and_of_none_none():
    assert frontier(points([(0.5, 0.5)] * 3)) == [0, 1, 2]
    assert frontier([]) == surely_below([]) == []
