"""When two files show the same."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator

from ..saving import IHDR_END, SIGNATURE

_PIECE, _MOST = 1 << 20, 1 << 32  # bytes of a picture without its compression


def shown(content: bytes) -> str:
    """A hash of a PNG's size, kind, colours and rows, whatever texts it carries and however well
    it is compressed, and of further frames as they are; of another file's bytes."""
    if not content.startswith(SIGNATURE):
        return hashlib.sha256(content).hexdigest()
    digest, size = hashlib.sha256(content[:IHDR_END]), 0
    for kind in (b"PLTE", b"tRNS", b"fdAT"):
        for data in _chunks(content, kind):
            digest.update(kind + len(data).to_bytes(4, "big") + data)
    inflate = zlib.decompressobj()
    try:
        for data in _chunks(content, b"IDAT"):
            while data:
                rows = inflate.decompress(data, _PIECE)
                digest.update(rows)
                size += len(rows)
                if size > _MOST:
                    raise zlib.error("too large")
                data = inflate.unconsumed_tail
        digest.update(inflate.flush())
    except zlib.error:  # no whole picture
        return hashlib.sha256(content).hexdigest()
    return digest.hexdigest()


def _chunks(content: bytes, wanted: bytes) -> Iterator[bytes]:
    at = len(SIGNATURE)
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == wanted:
            yield content[at + 8 : at + 8 + length]
        at += length + 12
