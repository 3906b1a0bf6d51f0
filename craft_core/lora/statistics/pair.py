"""Statistics of a content and a style: measured a layer at a time, when one is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

from ...errors import CraftError
from ...types import ROLES, Branch, LayerUpdate, Statistics
from ..factors import of_weights
from .registry import STATISTICS

Known = MutableMapping[tuple[str, str, int], float]
"""(statistic, module path, K; 0 where it does not depend on it) -> its number."""


@dataclass(frozen=True)
class Meter:
    """Measures one LoRA and keeps the numbers, so that nothing is measured twice.

    name: for messages. layers: its factors, looked at only to be measured. known: numbers that
    were measured before; new ones are added to it.
    """

    name: str
    layers: Mapping[str, tuple[LayerUpdate, ...]]
    known: Known = field(default_factory=dict)

    def number(self, statistic: str, path: str, k: int) -> float:
        """Raises CraftError for weights that are not finite."""
        key = _key(statistic, path, k)
        if key in self.known:
            return self.known[key]
        numbers = STATISTICS[statistic].measure(self.layers[path], k)
        if not all(map(math.isfinite, numbers.values())):
            raise CraftError(
                f"{self.name} has weights that are not finite numbers in {path}",
                "Layers can be compared only where all weights are finite",
                "Use another copy of the file; this one is broken",
            )
        self.known.update({_key(name, path, k): number for name, number in numbers.items()})
        return numbers[statistic]


def _key(statistic: str, path: str, k: int) -> tuple[str, str, int]:
    return statistic, path, k if STATISTICS[statistic].ranked else 0


def pair_statistics(
    branches: Sequence[Branch], depth_order: Iterable[str], meters: Sequence[Meter] | None = None
) -> Statistics:
    """Content's and style's numbers in each layer that both adapt, in depth order.

    meters: of the branches, in their order; None for new ones. K = r_c r_s, r the largest rank of
    a role's factors in the layer. Several branches of a role add up; strengths do not count, so
    that moving a dial moves no layer. Asking may raise CraftError as Meter.number does.
    """
    meters = meters or [Meter(branch.name, branch.layers) for branch in branches]
    roles = tuple(
        tuple(one for one in zip(branches, meters, strict=True) if one[0].role == role)
        for role in ROLES
    )
    adapted = [{path for branch, _ in group for path in branch.layers} for group in roles]
    both = set.intersection(*adapted)
    order = tuple(path for path in depth_order if path in both)

    def alone(statistic: str) -> tuple[float, float]:
        content, style = (
            math.fsum(
                meter.number(statistic, path, 0)
                for branch, meter in group
                for path in branch.layers
                if path not in both
            )
            for group in roles
        )
        return content, style

    return Statistics(lambda statistic: _Pairs(statistic, roles, order), alone)


_Group = tuple[tuple[Branch, Meter], ...]


class _Pairs(Mapping[str, tuple[float, float]]):
    """(content, style) of one statistic by module path, a layer measured when it is looked at."""

    def __init__(self, statistic: str, roles: tuple[_Group, ...], order: tuple[str, ...]) -> None:
        self.statistic, self.roles, self.order = statistic, roles, order
        self.paths = frozenset(order)

    def __getitem__(self, path: str) -> tuple[float, float]:
        if path not in self.paths:
            raise KeyError(path)
        k = math.prod(_rank(group, path) for group in self.roles)
        content, style = (
            sum(
                meter.number(self.statistic, path, k)
                for branch, meter in group
                if path in branch.layers
            )
            for group in self.roles
        )
        return content, style

    def __iter__(self) -> Iterator[str]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __contains__(self, path: object) -> bool:
        return path in self.paths


def _rank(group: _Group, path: str) -> int:
    return max(one.rank for branch, _ in group for one in of_weights(branch.layers.get(path, ())))
