"""What changes when a file is replaced under its name: the part of a node's cache key that the host
cannot know."""

from __future__ import annotations

import os

from .host_files import path_by_name


def stamp(kind: str, name: str | None) -> str:
    """Of a file of the host's folders; the name alone where there is none, and where it is linked
    (None)."""
    path = path_by_name(kind, name) if name else None
    return " ".join(map(str, (name, *file_stamp(path)[1:]))) if path else str(name)


def file_stamp(path: str) -> tuple[str, int, int, int, int]:
    """What differs between a file and another one in its place, also where a copy keeps the
    original's time and size."""
    status = os.stat(path)
    changed = status.st_ctime_ns  # on Windows the time of creation
    return os.path.abspath(path), status.st_ino, status.st_mtime_ns, changed, status.st_size
