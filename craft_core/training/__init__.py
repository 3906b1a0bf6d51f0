"""Training the paper's learned parts on any model that a Denoiser wraps; one recipe a file."""

from .recipes.basis import Pairs, basis  # isort: skip

# Imported in the order of the menu of learned merges, whose first entry is the default.
from .merges.duo_lora import duo_lora  # isort: skip
from .merges.zip_lora import zip_lora  # isort: skip
from .merges.b4m import b4m  # isort: skip

# Recipes in the order of the commands, the basis above first.
from .recipes.lora import Pictures, lora  # isort: skip
from .recipes.b4m_half import HalfPictures, b4m_half  # isort: skip
from .recipes.expert_encoder import Lessons, Phrased, expert_encoder  # isort: skip
from .recipes.joint import joint  # isort: skip
from .data import Dataset
from .denoiser import Condition, Denoiser, Edit, Example, LayerCall
from .loop import Pace, Recipe, StepCallback, Training
from .merge import MergePart, Merging, Prompt
from .registry import LEARNED, TRAINING, training_of
from .slots import DataSlots, Needs, RoleLayers, SlotContents

__all__ = [
    "LEARNED",
    "TRAINING",
    "Condition",
    "DataSlots",
    "Dataset",
    "Denoiser",
    "Edit",
    "Example",
    "HalfPictures",
    "LayerCall",
    "Lessons",
    "MergePart",
    "Merging",
    "Needs",
    "Pace",
    "Pairs",
    "Phrased",
    "Pictures",
    "Prompt",
    "Recipe",
    "RoleLayers",
    "SlotContents",
    "StepCallback",
    "Training",
    "b4m",
    "b4m_half",
    "basis",
    "duo_lora",
    "expert_encoder",
    "joint",
    "lora",
    "training_of",
    "zip_lora",
]
