"""Many settings get few pictures, the better half of them more: successive halving.

Jamieson and Talwalkar 2016 (Non-stochastic best arm identification, arXiv 1502.07943), Algorithm 1:
in each rung every setting left gets as many new pictures as makes twice what it had, and the better
half by the mean of all its pictures goes on. Departures: where the budget is too small for all
settings, a random part of them enters; and a share of the budget is kept for a comparison of the
best with the first setting on seeds that chose nothing, because the mean by which a setting was
chosen is too high by having been chosen.

Nothing is remembered: what to do next follows from the plan and the scores so far. So a search that
was stopped goes on as if it had not been.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

FIRST = 0  # the setting that the best is compared with
LEAST_BUDGET = 4
_KEPT = 8  # one picture in so many is for either side of the comparison


@dataclass(frozen=True)
class Trial:
    """A picture to make. seed: its number among the seeds, the same for every setting."""

    setting: int
    seed: int


@dataclass(frozen=True)
class Rung:
    """settings: how many enter. seeds: how many pictures each has at the end."""

    settings: int
    seeds: int


@dataclass(frozen=True)
class Halving:
    """entrants: the settings of the first rung. fresh: seeds of the comparison at the end, which
    come after those of the rungs."""

    entrants: tuple[int, ...]
    rungs: tuple[Rung, ...]
    fresh: int

    @property
    def seeds(self) -> int:
        """Of the last rung."""
        return self.rungs[-1].seeds

    @property
    def most_pictures(self) -> int:
        """What the search takes; fewer where the first setting is the best."""
        return _cost(self.rungs) + 2 * self.fresh


Scores = Mapping[Trial, float]


def plan_halving(settings: int, budget: int, seed: int) -> Halving:
    """A search among `settings` settings with at most `budget` pictures; the same for one seed.

    The first setting always enters. Fewer than two settings or than LEAST_BUDGET pictures:
    AssertionError.
    """
    assert settings >= 2 and budget >= LEAST_BUDGET
    room = budget - 2 * max(1, budget // _KEPT)
    entrants = max(n for n in range(2, settings + 1) if n == 2 or _cost(_rungs(n, 1)) <= room)
    start = max(s for s in range(1, room + 1) if s == 1 or _cost(_rungs(entrants, s)) <= room)
    others = random.Random(seed).sample(range(1, settings), entrants - 1)
    rungs = _rungs(entrants, start)
    return Halving((FIRST, *sorted(others)), rungs, (budget - _cost(rungs)) // 2)


def pending(plan: Halving, scores: Scores) -> list[Trial]:
    """The pictures to make now, setting by setting; none where the search is over."""
    rung, alive = _reached(plan, scores)
    lacking = _lacking(alive, range(rung.seeds), scores)
    if lacking:
        return lacking
    return _lacking(dict.fromkeys((FIRST, best_of(plan, scores))), compared(plan), scores)


def compared(plan: Halving) -> range:
    """The seeds on which the best and the first setting are compared."""
    return range(plan.seeds, plan.seeds + plan.fresh)


def best_of(plan: Halving, scores: Scores) -> int:
    """The best setting so far: of those in the last rung that was reached, by the mean over the
    rungs' seeds. Of equal ones the first; without a score the first setting."""
    _, alive = _reached(plan, scores)
    tried = [one for one in alive if any(Trial(one, seed) in scores for seed in range(plan.seeds))]
    return _ranked(tried, plan.seeds, scores)[0] if tried else FIRST


def _rungs(settings: int, start: int) -> tuple[Rung, ...]:
    found = [Rung(settings, start)]
    while found[-1].settings > 2:
        found.append(Rung(-(-found[-1].settings // 2), 2 * found[-1].seeds))
    return tuple(found)


def _cost(rungs: Sequence[Rung]) -> int:
    had = [0, *(rung.seeds for rung in rungs)]
    return sum(rung.settings * (rung.seeds - own) for rung, own in zip(rungs, had, strict=False))


def _reached(plan: Halving, scores: Scores) -> tuple[Rung, Sequence[int]]:
    """The first rung that is not all scored, or the last one, and the settings in it."""
    alive: Sequence[int] = plan.entrants
    for rung, after in zip(plan.rungs, plan.rungs[1:], strict=False):
        if _lacking(alive, range(rung.seeds), scores):
            return rung, alive
        alive = sorted(_ranked(alive, rung.seeds, scores)[: after.settings])
    return plan.rungs[-1], alive


def _lacking(settings: Iterable[int], seeds: range, scores: Scores) -> list[Trial]:
    trials = (Trial(setting, seed) for setting in settings for seed in seeds)
    return [trial for trial in trials if trial not in scores]


def _ranked(settings: Sequence[int], seeds: int, scores: Scores) -> list[int]:
    """By falling mean over the first seeds, as far as they are scored."""

    def mean(setting: int) -> float:
        trials = (Trial(setting, seed) for seed in range(seeds))
        found = [scores[trial] for trial in trials if trial in scores]
        return sum(found) / len(found)

    return sorted(settings, key=lambda setting: -mean(setting))
