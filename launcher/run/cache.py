"""A folder that several processes may fill: a lock, a record of what is finished, free disk."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import LaunchError
from ..terminal import say

GIGABYTE = 1024**3


def _try_lock(handle: IO) -> bool:
    """Take the operating system's lock on an open file; it is freed when the process ends."""
    try:
        if os.name == "nt":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def locked(path: Path, pause: float = 0.5) -> Iterator[None]:
    """Hold the set-up lock; a second set-up waits for the first and then finds its work done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        if not _try_lock(handle):
            say("  another set-up is running in the same cache; waiting for it (Ctrl-C stops)")
            while not _try_lock(handle):
                time.sleep(pause)
        yield


def read_stamps(path: Path) -> dict[str, str]:
    """The stamps: name of each finished part -> digest of the versions it was made from."""
    try:
        stamps = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def write_stamps(path: Path, stamps: dict[str, str]) -> None:
    """Replace the stamps in one step, so that an interrupt leaves the old ones."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(stamps, indent=1), "utf-8")
    os.replace(partial, path)


def folder_size(folder: Path) -> int:
    """Bytes of the regular files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue  # a temporary file that was deleted meanwhile
    return total


def require_disk(folder: Path, needed: int) -> None:
    """LaunchError, before anything is installed, where the disk is too small for it."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LaunchError(
            f"not enough disk: {folder} has {free / GIGABYTE:.1f} GB free and the set-up needs "
            f"{needed / GIGABYTE:.1f} GB; make room, or set COMFYUI_PATH to a ComfyUI you have."
        )
