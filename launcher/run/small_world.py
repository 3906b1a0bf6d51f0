"""Put the small world into a user's own ComfyUI: link its node pack, copy its pictures to input."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import LaunchError
from ..paths import ROOT
from ..terminal import say
from .hosts import find_own_comfyui
from .workspace import PACKS, REFERENCES, leads_to, link

NAME = "craft_small_world"


def add_small_world(folder: Path) -> None:
    """Link the pack into `folder`/custom_nodes and copy its pictures into `folder`/input."""
    pictures = list(_pictures(folder))
    for source, place in pictures:
        if place.exists() and place.read_bytes() != source.read_bytes():
            raise LaunchError(f"{place} is in the way and is not ours; move it and run again.")
    try:
        (folder / "custom_nodes").mkdir(exist_ok=True)
        link(PACKS[NAME], folder / "custom_nodes" / NAME)
        for source, place in pictures:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    except OSError as error:
        reason = error.strerror or error
        raise LaunchError(
            f"could not write to {folder} ({reason}); put that right and run again."
        ) from error
    say(f"The small world is in {folder}. Restart ComfyUI, then open its template browser.")


def remove_small_world(folder: Path) -> None:
    """Remove what `add_small_world` put there, except what was changed since."""
    for source, place in _pictures(folder):
        if place.is_file() and place.read_bytes() == source.read_bytes():
            place.unlink()
    for inside in sorted((folder / "input" / NAME).glob("**/"), reverse=True):
        if not any(inside.iterdir()):
            inside.rmdir()
    place = folder / "custom_nodes" / NAME
    if leads_to(place, PACKS[NAME]):
        os.unlink(place)
    say(f"The small world is no longer in {folder}. Restart ComfyUI.")


def own_folder(clone: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the user's ComfyUI: COMFYUI_PATH, else the one that this clone is inside of."""
    named = find_own_comfyui(clone, environ)
    if named is not None:
        return named
    if clone.parent.name == "custom_nodes":  # a base directory without ComfyUI's own code
        return clone.parent.parent
    raise LaunchError(
        f"{clone} lies in no custom_nodes folder, so which ComfyUI is meant is unknown; "
        "set COMFYUI_PATH to it (or use `python run.py host`, which needs none of yours)."
    )


def _pictures(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(shipped file, its place among the inputs of `folder`)."""
    for source in sorted(REFERENCES.rglob("*")):
        if source.is_file():
            yield source, folder / "input" / NAME / source.relative_to(REFERENCES)
    for source in sorted(REFERENCES.glob("*.png")):  # the host's Load Image lists no subfolders
        yield source, folder / "input" / f"{NAME}_{source.name}"
