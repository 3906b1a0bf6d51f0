"""The files that a training's file slot offers: those of its folder of the host's models."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...craft_core.training.slots import NO_FILE, FileSlot
from .host_files import path_by_name
from .stamps import stamp


def offered(slot: FileSlot) -> list[str]:
    """What the menu offers: none, and the files of models/<folder>."""
    make_known(slot)
    return [NO_FILE, *folder_paths.get_filename_list(slot.folder)]


def path_of(slot: FileSlot, name: str) -> Path:
    """The path of a file by its name in the menu."""
    make_known(slot)
    found = path_by_name(slot.folder, name)
    return Path(found or folder_paths.get_full_path_or_raise(slot.folder, name))


def stamp_of(slot: FileSlot, name: str | None) -> str:
    """What changes when the file of that name does; None where the name is linked."""
    make_known(slot)
    return stamp(slot.folder, name)


def make_known(slot: FileSlot) -> None:
    """Tell the host of the folder, where it does not know it, and that safetensors files count."""
    folder_paths.add_model_folder_path(
        slot.folder, str(Path(folder_paths.models_dir) / slot.folder)
    )
    folder_paths.folder_names_and_paths[slot.folder][1].add(".safetensors")
