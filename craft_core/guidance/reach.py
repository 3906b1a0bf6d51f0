"""How far guidance takes the LoRAs: by what a rule multiplies their strength.

CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 9-11: with the LoRAs on the conditional rows alone, cfg
multiplies what they do. docs/benchmarks.md has the strengths times weights that pictures bear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..messages import OVERDRIVEN, OVERDRIVEN_PLACES
from ..starting import GUIDED_WEIGHT, MOST_GUIDED_WEIGHT

_STEP = 0.05  # of the nodes' strengths
_ROUNDING = 1e-6
_ROLES = ("content", "style")
_DIAL = "{role}_strength"


@dataclass(frozen=True)
class Guided:
    """One of several settings. place: what it is called. strengths: by role. by: as reaches gives
    it."""

    place: str
    strengths: Mapping[str, float]
    by: Mapping[str, tuple[str, float]]

    @property
    def product(self) -> float:
        """The largest strength times its value."""
        return max((abs(s) * self.by[r][1] for r, s in self.strengths.items() if r in self.by),
                   default=0.0)  # fmt: skip


def reaches(rule: str, cfg: float, settings: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """By role, what its strength is multiplied by: the setting's name and its value.

    Empty where the LoRAs are guided with everything else.
    """
    if rule == "acfg":
        return dict.fromkeys(_ROLES, ("cfg", cfg))
    if "weight" not in settings:
        return {}
    both = settings["weight"] - 1.0
    return {role: ("weight", both + settings[f"{role}_weight"]) for role in _ROLES}


def guided_strength(value: float) -> float:
    """The strength to start with where guidance multiplies it by a value, at most 1."""
    steps = math.floor(min(GUIDED_WEIGHT / max(value, _STEP), 1.0) / _STEP + 0.5)
    return round(max(steps, 1) * _STEP, 2)


def overdriven(
    strengths: Mapping[str, float], by: Mapping[str, tuple[str, float]], dial: str = _DIAL
) -> list[str]:
    """What a user should know of strengths by role that guidance multiplies too far; roles of one
    strength and value share a line. dial: the input that sets a strength."""
    alike: dict[tuple[float, str, float], list[str]] = {}
    for role, strength in strengths.items():
        if role in by:
            alike.setdefault((abs(strength), *by[role]), []).append(dial.format(role=role))
    return [
        OVERDRIVEN.format(
            strength=f"{strength:.4g}", weight=weight, value=f"{value:.4g}",
            product=f"{strength * value:.4g}", most=f"{MOST_GUIDED_WEIGHT:.4g}",
            inputs=", ".join(dict.fromkeys(inputs)), fitting=f"{guided_strength(value):.4g}",
        )
        for (strength, weight, value), inputs in alike.items()
        if _is_too_far(strength * value)
    ]  # fmt: skip


def overdriven_places(settings: Sequence[Guided], dial: str = _DIAL) -> list[str]:
    """The same of several settings: how many, and what is said of the one that goes farthest."""
    too_far = [one for one in settings if _is_too_far(one.product)]
    if not too_far:
        return []
    farthest = max(too_far, key=lambda one: one.product)
    count = OVERDRIVEN_PLACES.format(count=len(too_far), total=len(settings), place=farthest.place)
    return [count, *overdriven(farthest.strengths, farthest.by, dial)]


def _is_too_far(product: float) -> bool:
    return product > MOST_GUIDED_WEIGHT + _ROUNDING
