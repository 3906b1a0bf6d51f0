"""Guidance rules, one a file: the evaluations of a step, and how they are combined."""

# Imported in the order of a menu, whose first entry is the default.
from . import acfg, cfg, role, weak  # isort: skip
from .rules import (
    GUIDANCE,
    SAMPLERS_OWN,
    Evaluation,
    Step,
    evaluation,
    needed,
    row_gates,
    sampled,
)
from .weights import weights_now

__all__ = [
    "GUIDANCE",
    "SAMPLERS_OWN",
    "Evaluation",
    "Step",
    "acfg",
    "cfg",
    "evaluation",
    "needed",
    "role",
    "row_gates",
    "sampled",
    "weak",
    "weights_now",
]
