"""What a server sends, taken in up to a size, and seen to be what was asked for."""

from __future__ import annotations

import http.client
import time
from pathlib import PurePosixPath
from typing import Any

from .errors import RemoteError

MOST_JSON = 1 << 27  # bytes; the node list of a host with many packs takes some ten million
MOST_FILE = 1 << 31  # bytes of a picture or a video
LONGEST = 1800.0  # seconds in which a body must have come
_PIECE = 1 << 20
_MOST_DIGITS = 20  # of an announced length
_PICTURES = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".gif": (b"GIF87a", b"GIF89a"),
    ".webp": (b"RIFF",),
}
_PAGES = (".html", ".htm", ".xhtml")


def read_body(answer: Any, most: int = MOST_FILE) -> bytes:
    """The body of an HTTP answer. RemoteError for more than `most` bytes, IncompleteRead for fewer
    than the answer announces, TimeoutError for one that takes too long."""
    announced = answer.headers.get("Content-Length")
    if announced and len(announced) > _MOST_DIGITS:
        raise RemoteError(f"the server announced a body whose length has {len(announced)} digits.")
    length = int(announced) if announced and announced.isdecimal() else None
    if length is not None and length > most:
        raise _too_large(f"{length}", most)
    pieces, size, end = [], 0, time.monotonic() + LONGEST
    for piece in iter(lambda: answer.read1(_PIECE), b""):
        if time.monotonic() > end:
            raise TimeoutError(f"an answer took more than {LONGEST:.0f} seconds")
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise _too_large(f"more than {most}", most)
    content = b"".join(pieces)
    if length is not None and len(content) < length:
        raise http.client.IncompleteRead(content, length - len(content))
    return content


def require_file(name: str, kind: str, content: bytes) -> None:
    """RemoteError where a body is a web page, or no picture under a picture's name.

    kind: the content type. A proxy or a login in front of a server answers with pages.
    """
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if kind in ("text/html", "application/xhtml+xml") and suffix not in _PAGES:
        raise RemoteError(f"the server sent a web page in place of {name}.")
    if not content:
        raise RemoteError(f"the server sent nothing in place of {name}.")
    if suffix in _PICTURES and not content.startswith(_PICTURES[suffix]):
        raise RemoteError(f"what the server sent as {name} is no {suffix[1:]} file ({kind}).")


def _too_large(size: str, most: int) -> RemoteError:
    return RemoteError(f"the server sent {size} bytes; at most {most} are taken.")
