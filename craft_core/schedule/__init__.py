"""Content and style over time (CRAFT-LoRA, App. C): one shape a file."""

# Imported in the order of the menu, whose first entry is the default.
from . import cosine, constant, window, linear, sigmoid, curve  # isort: skip
from .schedule import CLOCKS, Clock, Schedule, sample_curve
from .shapes import SHAPES

__all__ = [
    "CLOCKS",
    "SHAPES",
    "Clock",
    "Schedule",
    "constant",
    "cosine",
    "curve",
    "linear",
    "sample_curve",
    "sigmoid",
    "window",
]
