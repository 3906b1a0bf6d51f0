"""Adapter kinds, one a file. The order of the imports is that in which they are named."""

from . import lora, loha, lokr, difference, dora, glora, oft, ia3, refused  # isort: skip
from .difference import BiasDifference, Difference
from .kinds import (
    KINDS,
    AdapterKind,
    Key,
    RefusedKind,
    build_updates,
    incomplete,
    shape_of,
    stem_of,
)
from .parts import AdaptedLayer, Parts

__all__ = [
    "KINDS",
    "AdaptedLayer",
    "AdapterKind",
    "BiasDifference",
    "Difference",
    "Key",
    "Parts",
    "RefusedKind",
    "build_updates",
    "difference",
    "dora",
    "glora",
    "ia3",
    "incomplete",
    "loha",
    "lokr",
    "lora",
    "oft",
    "refused",
    "shape_of",
    "stem_of",
]
