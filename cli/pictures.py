"""Pictures on disk and their captions, in the layout that the host's dataset loader reads.

A folder holds pictures with their captions beside them in text files of the same name; a folder
inside it named as kohya's tools want, such as 10_dog, counts its pictures ten times. Unlike in the
host, the order of the pictures depends on neither file system nor system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..craft_core.errors import CraftError
from ..craft_core.requests import Picture
from ..craft_core.routing.markers import parse

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def find_pictures(given: Sequence[str], caption: str, flag: str) -> tuple[Picture, ...]:
    """Every picture of the files and folders, with `caption` or, where that is empty, its own.

    flag: the flag's name, for messages. CraftError for what is not there, or has no caption.
    """
    paths = [path for name in given for path in _paths(Path(name), flag)]
    return tuple(Picture(path, _caption(path, caption, flag)) for path in paths)


def _paths(given: Path, flag: str) -> list[Path]:
    if given.is_file():
        return [given]
    if not given.is_dir():
        raise CraftError(
            f"--{flag}: there is no file or folder {given}",
            "It takes pictures and folders of pictures",
            "Correct the path",
        )
    found = list(_inside(given))
    if not found:
        raise CraftError(
            f"--{flag}: {given} holds no picture",
            f"Pictures end in {', '.join(SUFFIXES)}",
            "Put some there, or name another folder",
        )
    return found


def _inside(folder: Path) -> Iterator[Path]:
    for entry in _by_name(folder):
        if entry.is_dir():
            count = entry.name.split("_")[0]
            repeats = int(count) if count.isdecimal() else 1
            yield from [path for path in _by_name(entry) if _is_picture(path)] * repeats
        elif _is_picture(entry):
            yield entry


def _by_name(folder: Path) -> list[Path]:
    """Paths themselves have another order on Windows, where the case does not count."""
    return sorted(folder.iterdir(), key=lambda one: one.name)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _caption(path: Path, caption: str, flag: str) -> str:
    beside = path.with_suffix(".txt")
    text = caption or _read(beside)
    try:
        clean = parse(text).clean
    except CraftError as error:
        given = f"The caption of {path}: {error.given}"
        raise CraftError(given, error.possible, error.action) from error
    if not clean.strip():
        raise CraftError(
            f"{path} has no caption",
            "A picture is learned under what it shows, e.g. 'a photo of sks dog'",
            f"Write it into {beside.name} beside the picture, or give one for all with "
            f"--{caption_flag(flag)}",
        )
    return " ".join(text.split())


def caption_flag(flag: str) -> str:
    """images -> caption, content -> content-caption."""
    return "caption" if flag == "images" else f"{flag}-caption"


def _read(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CraftError(
            f"{path} cannot be read ({error})",
            "A caption is a text file in UTF-8",
            "Save it as one",
        ) from error
