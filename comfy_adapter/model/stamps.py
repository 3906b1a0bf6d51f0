"""What changes when a file is replaced under its name: the part of a node's cache key that the host
cannot know."""

from __future__ import annotations

import os

import folder_paths


def stamp(kind: str, name: str | None) -> str:
    """Of a file of the host's folders; the name alone where there is none, and where it is linked
    (None)."""
    path = folder_paths.get_full_path(kind, name) if name else None
    status = os.stat(path) if path else None
    return f"{name} {status.st_mtime_ns} {status.st_size}" if status else str(name)
