"""What changes when a file is replaced under its name: the part of a node's cache key that the host
cannot know, and the hash of a file, which is read again only then."""

from __future__ import annotations

import os
from functools import lru_cache

from ...craft_core.file_hash import file_hash
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


def hash_of(path: str) -> str:
    """SHA-256, in hex digits."""
    return _hash(*file_stamp(path))


@lru_cache(maxsize=64)
def _hash(path: str, *_stamp: int) -> str:
    return file_hash(path)
