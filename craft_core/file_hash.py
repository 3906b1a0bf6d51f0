"""The SHA-256 of a file, by which files are compared, with the standard library alone."""

from __future__ import annotations

import hashlib
import os

_CHUNK = 1 << 24


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a whole file, as hexadecimal digits. OSError where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
