"""Training the paper's learned parts on any model that a Denoiser wraps; one recipe a file."""

from .basis import Pairs, basis
from .data import Dataset
from .denoiser import Condition, Denoiser, Edit, Example, LayerCall
from .expert_encoder import Lessons, Phrased, expert_encoder
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
    "Lessons",
    "Pace",
    "Pairs",
    "Phrased",
    "Pictures",
    "Place",
    "Recipe",
    "Training",
    "basis",
    "expert_encoder",
    "lora",
]
