"""How far guidance takes the LoRAs of one setting among several, known before anything is made."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...craft_core.fusion.lines import Line
from ...craft_core.guidance import GUIDANCE
from ...craft_core.guidance.reach import Guided, reaches
from ...craft_core.routing.markers import MarkedPrompt, gammas
from ..engine.engine import ASYMMETRIC
from ..model.lora_files import BranchFile

_RULES = {asymmetric: rule for rule, asymmetric in ASYMMETRIC.items()}


def guided_setting(
    place: str,
    branches: Iterable[BranchFile],
    marked: MarkedPrompt,
    line: Line,
    cfg: float,
    asymmetric: bool = True,
) -> Guided:
    """place: what the setting is called. asymmetric: for a line that names no guidance."""
    rule = rule_of(line, asymmetric)
    by = reaches(rule, cfg, GUIDANCE[rule].knobs(line.weights))
    if rule == _RULES[True] and math.isclose(cfg, 1.0):  # then nothing is asymmetric
        by = {}
    return Guided(place, _strengths(branches, marked, line), by)


def rule_of(line: Line, asymmetric: bool = True) -> str:
    """The guidance rule of a line. asymmetric: for one that names none."""
    return line.guidance or _RULES[asymmetric]


def _strengths(
    branches: Iterable[BranchFile], marked: MarkedPrompt, line: Line
) -> dict[str, float]:
    """The largest strength of each role's LoRAs that act."""
    found: dict[str, float] = {}
    for branch in branches:
        (on,) = gammas(marked, [branch.role]) if line.method.traits.markers else (1.0,)
        found[branch.role] = max(found.get(branch.role, 0.0), on * abs(branch.strength))
    return found
