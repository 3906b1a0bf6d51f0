"""Statistics of an update by name: a number is computed only when it is asked for by name.

A statistic is a function (factors of a layer, K) -> its number by name, and by their names those
of other statistics that it found on the way. To add one: a file with
one function, and its import in __init__.py. A fusion method names those it needs in its traits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...types import LayerUpdate

StatisticFunction = Callable[[Sequence[LayerUpdate], int], Mapping[str, float]]


@dataclass(frozen=True)
class Statistic:
    """measure: gives at least its number. ranked: whether that depends on K = r_c r_s."""

    measure: StatisticFunction
    ranked: bool


STATISTICS: dict[str, Statistic] = {}
"""By name."""


def statistic(name: str, ranked: bool = False) -> Callable[[StatisticFunction], StatisticFunction]:
    """Decorator: register a measure under the name of its number."""

    def add(measure: StatisticFunction) -> StatisticFunction:
        assert name not in STATISTICS, f"two statistics are called {name}"
        STATISTICS[name] = Statistic(measure, ranked)
        return measure

    return add
