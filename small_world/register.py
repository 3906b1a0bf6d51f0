"""Teach the host to load the small world: one more supported model and four more model folders."""

from pathlib import Path

import comfy.supported_models
import folder_paths

from .architecture import MARKER
from .model_class import CraftSmallWorld

MODELS = Path(__file__).parent / "models"
OURS = ("craft_bases", "craft_encoders")  # not the host's own; the main pack's nodes read them
FOLDERS = ("checkpoints", "loras", *OURS)


def register() -> None:
    """Add our model class ahead of the host's and our folders after the host's own.

    Only a checkpoint that carries our marker key matches the class, so every other file is
    detected as before.  Calling it again, also from a second copy of this package, does nothing.
    """
    known = comfy.supported_models.models
    if not any(MARKER in getattr(model, "required_keys", {}) for model in known):
        known.insert(0, CraftSmallWorld)
    for folder in FOLDERS:
        folder_paths.add_model_folder_path(folder, str(MODELS / folder))
    for folder in OURS:
        # Without an ending in its set a folder would list every file.
        folder_paths.folder_names_and_paths[folder][1].add(".safetensors")
