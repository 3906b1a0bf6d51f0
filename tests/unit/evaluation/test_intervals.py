"""Intervals hold the mean as often as they say, and several comparisons are corrected."""

from __future__ import annotations

import numpy as np
import pytest
from craft_lora_pack.craft_core.evaluation import crossed_interval, holm, mean_score

from small_world.train.measuring.measure import bootstrapped


def crossed(rng: np.random.Generator, levels: tuple[int, ...], spread: tuple[float, ...]):
    """Values with a random effect for every level of each factor, true mean 0, and the levels."""
    places = np.indices(levels).reshape(len(levels), -1)
    effects = [
        rng.normal(0, s, n)[place] for s, n, place in zip(spread, levels, places, strict=True)
    ]
    return sum(effects) + rng.normal(0, 0.3, places.shape[1]), places


def coverage(factors_of, runs: int = 200) -> float:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(runs):
        values, places = crossed(rng, (20, 20, 3), (1.0, 1.0, 0.1))
        low, high = crossed_interval(values, factors_of(places), resampled=300)
        held += low <= 0 <= high
    return held / runs


def test_the_crossed_interval_holds_the_true_mean_about_as_often_as_it_says():
    assert 0.90 <= coverage(lambda places: tuple(places)) <= 0.99


def test_drawing_pictures_alone_would_hold_it_far_too_seldom():
    assert coverage(lambda places: (range(places.shape[1]),), runs=60) < 0.5


def test_the_small_worlds_intervals_are_the_same():
    """It is a pack of its own and shares no function with this one."""
    rng = np.random.default_rng(1)
    asked = [(f"c{k // 10}", f"s{k % 10}") for k in range(60)]
    values = rng.random(60)
    assert crossed_interval(values, tuple(zip(*asked, strict=True))) == bootstrapped(values, asked)


def test_an_interval_depends_on_no_name_and_follows_a_shift():
    rng = np.random.default_rng(2)
    values, places = crossed(rng, (6, 5), (1.0, 1.0))
    low, high = crossed_interval(values, tuple(places))
    named = [[f"level {k}" for k in place] for place in places]
    assert crossed_interval(values, named) == (low, high)
    moved = crossed_interval(2 * values + 3, tuple(places))
    np.testing.assert_allclose(moved, (2 * low + 3, 2 * high + 3))
    assert low < values.mean() < high
    narrow, wide = (crossed_interval(values, tuple(places), level=p) for p in (0.5, 0.99))
    assert wide[0] < low < narrow[0] and narrow[1] < high < wide[1]


def test_equal_values_have_no_width_and_nothing_repeated_has_no_interval():
    assert crossed_interval([0.5] * 6, [range(6)]) == (0.5, 0.5)
    assert crossed_interval([0.5], [["a"]]) is None
    assert crossed_interval([0.5, 0.7], [["a", "a"]]) is None
    assert crossed_interval([0.5, 0.7], []) is None


def test_a_level_that_stands_alone_adds_nothing():
    values = np.random.default_rng(3).random(8)
    seeds = list(range(8))
    one = crossed_interval(values, [seeds])
    assert crossed_interval(values, [seeds, ["only"] * 8])[0] == pytest.approx(one[0], abs=0.02)


def test_numbers_that_do_not_agree_are_no_interval():
    for values, factors in (([], [[]]), ([1.0, 2.0], [["a"]]), ([[1.0]], [["a"]])):
        with pytest.raises(AssertionError):
            crossed_interval(values, factors)


def test_a_score_says_how_it_was_made():
    factors = {"contents": ["a", "a", "b", "b"], "seeds": [0, 1, 0, 1]}
    found = mean_score("content", [0.1, 0.3, 0.5, 0.7], factors, "an encoder", "resized")
    assert (found.measure, found.n, found.over) == ("content", 4, ("contents", "seeds"))
    assert (found.encoder, found.preprocessing) == ("an encoder", "resized")
    assert found.mean == pytest.approx(0.4) and found.low < 0.4 < found.high
    alone = mean_score("content", [0.1], {"seeds": [0]}, "an encoder", "resized")
    assert (alone.mean, alone.low, alone.high, alone.n) == (0.1, None, None, 1)


def test_holm_by_hand():
    """Four values, smallest first: times 4, 3, 2, 1, and never below one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_keeps_the_order_lies_above_each_value_and_below_bonferroni():
    given = np.random.default_rng(4).random(12) / 10
    found = np.array(holm(given.tolist()))
    assert (found >= given).all() and (found <= np.minimum(1, 12 * given) + 1e-12).all()
    assert (np.diff(found[np.argsort(given)]) >= 0).all()
    np.testing.assert_allclose(holm(given[::-1].tolist()), found[::-1])


def test_what_is_no_probability_is_not_corrected():
    with pytest.raises(AssertionError):
        holm([0.1, 1.5])
