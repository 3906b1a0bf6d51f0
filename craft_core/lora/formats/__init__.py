"""Adapter kinds, one a file. The order of the imports is that in which they are named."""

from . import lora, loha, lokr, refused  # isort: skip
from .kinds import KINDS, AdapterKind, Key, RefusedKind, build_update, incomplete, shape_of, stem_of
from .parts import AdaptedLayer, Parts

__all__ = [
    "KINDS",
    "AdaptedLayer",
    "AdapterKind",
    "Key",
    "Parts",
    "RefusedKind",
    "build_update",
    "incomplete",
    "loha",
    "lokr",
    "lora",
    "refused",
    "shape_of",
    "stem_of",
]
