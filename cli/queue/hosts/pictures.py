"""When two files show the same."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator

from ..saving import IHDR_END, SIGNATURE

_PIECE = 1 << 20  # bytes
# Bytes of a picture without its compression: those of 8192 x 8192 pixels in RGBA are 268 million.
# A second of a processor inflates about as many; a larger picture is compared as it is stored.
_MOST = 300_000_000
# By the kind of colour: numbers of a pixel, and how many bits one may have.
_KINDS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)),
          6: (4, (8, 16))}  # fmt: skip
# Where the pixels of an interlaced picture's passes begin and how far apart they are: x, y.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
           (0, 1, 1, 2))  # fmt: skip


def shown(content: bytes) -> str:
    """A hash of a PNG's size, kind, colours and rows, whatever texts it carries and however well
    it is compressed, and of further frames as they are; of another file's bytes, also where it is
    no whole picture or a very large one. Nothing is inflated beyond the size that its header
    states."""
    most = _stated(content) if content.startswith(SIGNATURE) else 0
    if not 0 < most <= _MOST:
        return hashlib.sha256(content).hexdigest()
    digest, size = hashlib.sha256(content[:IHDR_END]), 0
    for kind in (b"PLTE", b"tRNS", b"fdAT"):
        for data in _chunks(content, kind):
            digest.update(kind + len(data).to_bytes(4, "big") + data)
    inflate = zlib.decompressobj()
    try:
        for data in _chunks(content, b"IDAT"):
            while data:
                rows = inflate.decompress(data, min(_PIECE, most - size + 1))
                digest.update(rows)
                size += len(rows)
                if size > most:
                    raise zlib.error("more rows than the header states")
                data = inflate.unconsumed_tail
        rows = inflate.flush()  # of what was read already
        digest.update(rows)
        if size + len(rows) != most or not inflate.eof:
            raise zlib.error("other rows than the header states")
    except zlib.error:  # no whole picture
        return hashlib.sha256(content).hexdigest()
    return digest.hexdigest()


def _stated(content: bytes) -> int:
    """The bytes of a PNG's rows by its header, each with the byte that names its filter; 0 where
    the header is none."""
    header = content[len(SIGNATURE) : IHDR_END]
    if len(header) < IHDR_END - len(SIGNATURE) or header[4:8] != b"IHDR":
        return 0
    width, height, depth, kind, *_, interlaced = struct.unpack(">IIBBBBB", header[8:21])
    numbers, depths = _KINDS.get(kind, (0, ()))
    if depth not in depths or interlaced > 1:
        return 0
    total = 0
    for x, y, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * numbers * depth // 8))
    return total


def _chunks(content: bytes, wanted: bytes) -> Iterator[bytes]:
    at = len(SIGNATURE)
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == wanted:
            yield content[at + 8 : at + 8 + length]
        at += length + 12
