"""Where a LoRA that is sent goes, and what is there. Only names that no file has are given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import folder_paths

from ...client.loras.announced import SUFFIX, Announced
from ...craft_core.errors import CraftError
from ..model.lora_files import FOLDER, lora_choices
from ..model.stamps import hash_of

MOST_LIKE = 8  # files of the same size that are read to find one of the same content


def target_of(one: Announced) -> Path:
    """The path in the first of the loras folders, made if it is not there; CraftError where a link
    in it leads elsewhere, or to where the file would hide another one."""
    base = Path(folder_paths.get_folder_paths(FOLDER)[0])
    base.mkdir(parents=True, exist_ok=True)
    root = base.resolve()
    try:
        folder = root.joinpath(*one.parts[:-1]).resolve()
    except RuntimeError as error:  # links in a circle, for Python before 3.13
        raise _elsewhere(one) from error
    if not folder.is_relative_to(root):
        raise _elsewhere(one)
    target = folder / one.parts[-1]
    _require_unknown(target, one)
    return target


def _require_unknown(target: Path, one: Announced) -> None:
    """CraftError where the host has another file under a name that the target has, too: a link, and
    a folder of models inside another one, give it more names than its own."""
    for kind, (folders, *_) in list(folder_paths.folder_names_and_paths.items()):
        for root in {Path(os.path.realpath(folder)) for folder in folders}:
            if not target.is_relative_to(root):
                continue
            name = target.relative_to(root).as_posix()
            found = folder_paths.get_full_path(kind, name)
            if found is not None and Path(found).resolve() != target:
                raise CraftError(
                    f"{one.name} would be {name} of this ComfyUI, too, which is another file",
                    "A file that is there is never hidden by one that is sent",
                    "Rename the file that is sent, and name it so in the workflow",
                )


def _elsewhere(one: Announced) -> CraftError:
    return CraftError(
        f"{one.name} would be outside this ComfyUI's loras folder: a link in it leads there",
        "LoRAs that are sent are put into that folder itself",
        "Put the file there by hand",
    )


def is_there(one: Announced) -> bool:
    """Whether a file of one of the loras folders has this name and content; CraftError where one
    has the name and another content, which stays."""
    path = folder_paths.get_full_path(FOLDER, one.name)
    if path is None:
        return False
    if hash_of(path) == one.sha256:
        return True
    raise taken(one)


def taken(one: Announced) -> CraftError:
    return CraftError(
        f"This ComfyUI has another file under the name {one.name}",
        "A file that is there is never overwritten",
        "Rename one of the two, and name it so in the workflow",
    )


def like(one: Announced) -> Path | None:
    """A LoRA of the same content under another name."""
    seen = 0
    for name in lora_choices():
        path = folder_paths.get_full_path(FOLDER, name)
        if path is None or not name.lower().endswith(SUFFIX):
            continue
        with suppress(OSError):
            if os.path.getsize(path) == one.size:
                seen += 1
                if hash_of(path) == one.sha256:
                    return Path(path).resolve()
        if seen == MOST_LIKE:
            return None
    return None


@contextmanager
def folders_of(target: Path) -> Iterator[None]:
    """The folders in which a file is to be; those that were made go again where it is not there."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        for folder in reversed(made):
            folder.mkdir(exist_ok=True)
        yield
    finally:
        for folder in () if os.path.lexists(target) else made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def nearest(target: Path) -> Path:
    """The folder that there is on the way to the file."""
    return next(folder for folder in target.parents if folder.is_dir())
