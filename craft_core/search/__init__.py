"""Which settings to make pictures with: to find the best with few, or to fill a grid."""

from .grid import KINDS, MOST_CELLS, Grid, GridCell, GridSetting, Value, axis_of, grid_of
from .settings import Setting, rule_in, settings_of
from .successive_halving import (
    FIRST,
    LEAST_BUDGET,
    Halving,
    Rung,
    Trial,
    best_of,
    compared,
    pending,
    plan_halving,
)

__all__ = [
    "FIRST",
    "KINDS",
    "LEAST_BUDGET",
    "MOST_CELLS",
    "GridCell",
    "Grid",
    "GridSetting",
    "Halving",
    "Rung",
    "Setting",
    "Trial",
    "Value",
    "axis_of",
    "best_of",
    "compared",
    "grid_of",
    "pending",
    "plan_halving",
    "rule_in",
    "settings_of",
]
