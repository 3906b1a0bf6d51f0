"""What is in a file, as one number: read again only when the file has changed."""

from __future__ import annotations

from functools import lru_cache

from ...craft_core.file_hash import file_hash
from .stamps import file_stamp


def hash_of(path: str) -> str:
    """SHA-256, in hex digits."""
    return _hash(*file_stamp(path))


@lru_cache(maxsize=64)
def _hash(path: str, *_stamp: int) -> str:
    return file_hash(path)
