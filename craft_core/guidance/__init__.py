"""Guidance rules, one a file: the evaluations of a step, and how they are combined."""

# Imported in the order of a menu, whose first entry is the default.
from . import acfg, cfg  # isort: skip
from .rules import GUIDANCE, Evaluation, evaluation, row_gates

__all__ = ["GUIDANCE", "Evaluation", "acfg", "cfg", "evaluation", "row_gates"]
