"""Training the paper's learned parts on any model that a Denoiser wraps; one recipe a file."""

from .basis import Pairs, basis
from .data import Dataset
from .denoiser import Condition, Denoiser, Edit, Example, LayerCall
from .loop import Pace, Recipe, Training
from .lora import Pictures, Place, lora
from .recipes import TRAINING

__all__ = [
    "TRAINING",
    "Condition",
    "Dataset",
    "Denoiser",
    "Edit",
    "Example",
    "LayerCall",
    "Pace",
    "Pairs",
    "Pictures",
    "Place",
    "Recipe",
    "Training",
    "basis",
    "lora",
]
