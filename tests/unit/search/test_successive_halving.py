"""The search finds the best, keeps to its budget, and goes on after any stop as if without."""

from __future__ import annotations

import numpy as np
import pytest
from craft_lora_pack.craft_core.search import (
    LEAST_BUDGET,
    Halving,
    Rung,
    Trial,
    best_of,
    compared,
    pending,
    plan_halving,
)

SIZES = [(2, 4), (2, 100), (3, 9), (7, 30), (40, 20), (40, 64), (40, 500), (1000, 96)]


class Scorer:
    """Each setting has a true mean, and each picture a deviation of its own from it."""

    def __init__(self, settings: int, seed: int, noise: float = 0.1) -> None:
        rng = np.random.default_rng(seed)
        self.means = rng.random(settings)
        self._noise, self._seed = noise, seed
        self.made: list[Trial] = []

    def __call__(self, trial: Trial) -> float:
        self.made.append(trial)
        rng = np.random.default_rng((self._seed, trial.setting, trial.seed))
        return float(self.means[trial.setting] + self._noise * rng.normal())


def searched(plan: Halving, scorer: Scorer, scores: dict | None = None, most: int = 10**9) -> dict:
    """All scores, picture by picture, or those until `most` of them are there."""
    scores = dict(scores or {})
    while (trials := pending(plan, scores)) and len(scores) < most:
        scores[trials[0]] = scorer(trials[0])
    return scores


@pytest.mark.parametrize(("settings", "budget"), SIZES)
def test_a_search_ends_within_its_budget_and_makes_no_picture_twice(settings, budget):
    for seed in range(5):
        plan, scorer = plan_halving(settings, budget, seed), Scorer(settings, seed)
        searched(plan, scorer)
        assert len(scorer.made) == len(set(scorer.made)) <= plan.most_pictures <= budget
        assert len(scorer.made) > budget // 3  # it is used, too


def test_it_finds_the_best_of_all_where_the_budget_lets_all_enter():
    """A picture's score deviates by more than twice what lies between two neighbours."""
    regrets, chance = [], []
    for seed in range(60):
        plan, scorer = plan_halving(24, 200, seed), Scorer(24, seed)
        assert len(plan.entrants) == 24
        found = best_of(plan, searched(plan, scorer))
        regrets.append(scorer.means.max() - scorer.means[found])
        chance.append(scorer.means.max() - scorer.means.mean())
    assert np.mean(np.array(regrets) == 0) >= 0.6
    assert np.mean(regrets) < 0.05 * np.mean(chance)


def test_without_noise_it_finds_the_best_always():
    for seed in range(20):
        plan, scorer = plan_halving(12, 60, seed), Scorer(12, seed, noise=0.0)
        assert best_of(plan, searched(plan, scorer)) == scorer.means.argmax()


def test_one_seed_has_one_plan_and_another_lets_others_enter():
    one, again, other = (plan_halving(1000, 96, seed) for seed in (1, 1, 2))
    assert one == again
    assert one.entrants != other.entrants and one.rungs == other.rungs
    assert one.entrants[0] == other.entrants[0] == 0  # the first enters always


@pytest.mark.parametrize(("settings", "budget"), SIZES[:-1])
def test_a_search_goes_on_after_any_stop_as_if_without(settings, budget):
    plan = plan_halving(settings, budget, 3)
    whole = Scorer(settings, 3)
    expected = searched(plan, whole)
    for stop in {0, 1, 2, len(expected) // 2, len(expected) - 1, len(expected)}:
        first, second = Scorer(settings, 3), Scorer(settings, 3)
        stopped = searched(plan, first, most=stop)
        assert searched(plan, second, stopped) == expected
        assert first.made + second.made == whole.made


@pytest.mark.parametrize(("settings", "budget"), SIZES)
def test_all_settings_of_a_rung_see_the_same_seeds(settings, budget):
    plan, scorer = plan_halving(settings, budget, 4), Scorer(settings, 4)
    scores = {}
    while trials := pending(plan, scores):
        seeds = {}
        for trial in trials:
            seeds.setdefault(trial.setting, set()).add(trial.seed)
        assert len({frozenset(own) for own in seeds.values()}) == 1
        scores |= {trial: scorer(trial) for trial in trials}


def test_a_rung_by_hand():
    """Five settings, all twice the pictures of before: 5 x 1, 3 x 1 more, 2 x 2 more; then each of
    two sides 4 times on seeds of its own."""
    plan = plan_halving(5, 20, 0)
    assert plan == Halving((0, 1, 2, 3, 4), (Rung(5, 1), Rung(3, 2), Rung(2, 4)), 4)
    scores = {Trial(k, 0): value for k, value in enumerate((0.1, 0.5, 0.3, 0.2, 0.4))}
    assert pending(plan, scores) == [Trial(1, 1), Trial(2, 1), Trial(4, 1)]
    scores |= {Trial(1, 1): 0.0, Trial(2, 1): 0.3, Trial(4, 1): 0.4}
    assert best_of(plan, scores) == 4
    rung = pending(plan, scores)
    assert rung == [Trial(2, 2), Trial(2, 3), Trial(4, 2), Trial(4, 3)]
    scores |= dict.fromkeys(rung, 0.35)
    assert list(compared(plan)) == [4, 5, 6, 7]
    assert pending(plan, scores) == [Trial(k, seed) for k in (0, 4) for seed in (4, 5, 6, 7)]
    scores |= dict.fromkeys(pending(plan, scores), 0.0)
    assert pending(plan, scores) == [] and best_of(plan, scores) == 4


def test_the_seeds_of_the_comparison_choose_nothing():
    plan = plan_halving(5, 20, 0)
    scores = searched(plan, Scorer(5, 0))
    best = best_of(plan, scores)
    worse = {trial: -1.0 if trial.seed in compared(plan) else x for trial, x in scores.items()}
    assert best_of(plan, worse) == best


def test_a_first_setting_that_is_best_is_not_compared_with_itself():
    plan = plan_halving(3, 30, 0)
    scores = {}
    while trials := pending(plan, scores):
        scores |= {trial: 1.0 - trial.setting for trial in trials}
    assert best_of(plan, scores) == 0
    assert len(scores) == plan.most_pictures - plan.fresh


def test_the_best_so_far_needs_no_end():
    plan = plan_halving(5, 20, 0)
    assert best_of(plan, {}) == 0
    assert best_of(plan, {Trial(0, 0): 0.1, Trial(1, 0): 0.5}) == 1


@pytest.mark.parametrize(("settings", "budget"), [(1, 10), (5, LEAST_BUDGET - 1)])
def test_what_is_no_search_is_none(settings, budget):
    with pytest.raises(AssertionError):
        plan_halving(settings, budget, 0)
