"""How large an update is, in the numbers that methods ask for by name."""

from . import entries, squared_norm  # each registers its statistics
from .entries import magnitude
from .pair import Meter, pair_statistics
from .registry import STATISTICS
from .squared_norm import frobenius_norm

__all__ = [
    "STATISTICS",
    "Meter",
    "entries",
    "magnitude",
    "frobenius_norm",
    "pair_statistics",
    "squared_norm",
]
