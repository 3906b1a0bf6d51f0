"""Which setting is best, found with as few pictures as asked for."""

from .settings import Setting, settings_of
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
    "LEAST_BUDGET",
    "Halving",
    "Rung",
    "Setting",
    "Trial",
    "best_of",
    "compared",
    "pending",
    "plan_halving",
    "settings_of",
]
