"""What the host's own menus offer: samplers, schedulers, model files."""

from __future__ import annotations

import comfy.samplers
import folder_paths

SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS


def files(folder: str) -> list[str]:
    """Names of the files in one of the host's model folders, e.g. "checkpoints"."""
    return folder_paths.get_filename_list(folder)
