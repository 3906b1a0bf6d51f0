"""Training the paper's learned parts on any model that a Denoiser wraps; one recipe a file."""

# Imported in the order of the menu of learned merges, whose first entry is the default.
from .merges.duo_lora import duo_lora  # isort: skip
from .merges.zip_lora import zip_lora  # isort: skip
from .merges.b4m import b4m  # isort: skip
from .data import Dataset
from .denoiser import Condition, Denoiser, Edit, Example, LayerCall
from .loop import Pace, Recipe, Training
from .merge import Merging, Part, Prompt
from .recipes.b4m_half import HalfPictures, b4m_half
from .recipes.basis import Pairs, basis
from .recipes.expert_encoder import Lessons, Phrased, expert_encoder
from .recipes.lora import Pictures, Place, lora
from .registry import LEARNED, TRAINING

__all__ = [
    "LEARNED",
    "TRAINING",
    "Condition",
    "Dataset",
    "Denoiser",
    "Edit",
    "Example",
    "HalfPictures",
    "LayerCall",
    "Lessons",
    "Merging",
    "Pace",
    "Pairs",
    "Part",
    "Phrased",
    "Pictures",
    "Place",
    "Prompt",
    "Recipe",
    "Training",
    "b4m",
    "b4m_half",
    "basis",
    "duo_lora",
    "expert_encoder",
    "lora",
    "zip_lora",
]
