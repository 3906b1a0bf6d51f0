"""Read and write safetensors files: the same content gives the same bytes, a file appears whole or
not at all, and a file of another kind is refused with the name of the kind that was expected."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .errors import CraftError, lacks_memory
from .writing import write_whole

MOST_HEADER = 1 << 25  # bytes; training tools write some hundred kilobytes of metadata
MOST_TENSORS = 20_000  # the largest LoRA files have a tenth of it
LONGEST_NAME = 500  # characters of a tensor's name
_LARGEST = 1 << 40  # numbers in a tensor, its empty axes taken for 1


@dataclass(frozen=True)
class Kind:
    """One kind of file, and what its error messages advise.

    noun: "basis file". again: how to get an undamaged one. format, version: what the metadata says
    under `format` and `format_version`; None where the kind has none. choose: which file to take in
    place of one of another format.
    """

    noun: str
    again: str
    format: str | None = None
    version: int | None = None
    choose: str = ""

    @property
    def one(self) -> str:
        """The noun with its article, to begin a sentence."""
        return f"{'An' if self.noun[0] in 'aeiou' else 'A'} {self.noun}"

    def damaged(self, path: Path, reason: str) -> CraftError:
        return CraftError(
            f"{path.name} is damaged: {reason}", f"{self.one} is whole or not used", self.again
        )

    def check(self, path: Path, metadata: Mapping[str, str]) -> None:
        """CraftError unless the metadata is of this format, and of the version that is read."""
        if self.format is not None and metadata.get("format") != self.format:
            raise CraftError(
                f"{path.name} is no {self.noun}",
                f"{self.one} has format = {self.format} in its metadata",
                self.choose,
            )
        found = metadata.get("format_version")
        if self.version is not None and found != str(self.version):
            raise CraftError(
                f"{path.name} has {f'format version {found}' if found else 'no format version'}",
                f"This version reads version {self.version}",
                "Update CRAFT-LoRA, or make the file again",
            )


class BadHeader(ValueError):
    """Why a file's header is not read."""


def read_shapes(path: Path, most_tensors: int = MOST_TENSORS) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's tensors by name, from its header alone; as header_of."""
    return header_of(path, most_tensors)[0]


def header_of(
    path: Path, most_tensors: int = MOST_TENSORS
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """(the shapes of a safetensors file's tensors by name, its metadata).

    What a header may ask for is bounded here, before anything is made of it. BadHeader for one
    that is too large or no header; OSError.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise BadHeader(f"its header has {length} bytes, and up to {MOST_HEADER} are read")
        text = file.read(length)
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", None) or {}
        if len(entries) > most_tensors:
            raise BadHeader(f"it has {len(entries)} tensors, and up to {most_tensors} are read")
        shapes = {_name(key): _shape(key, entry["shape"]) for key, entry in entries.items()}
        return shapes, {key: str(value) for key, value in metadata.items()}
    except BadHeader:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadHeader("its header is no list of tensors") from error


def _check_empty(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """BadHeader for a tensor without numbers that has an axis longer than the file: nothing but
    such an axis can ask for more memory than the file takes."""
    size = path.stat().st_size
    for key, shape in shapes.items():
        if 0 in shape and max(shape) > size:
            raise BadHeader(f"{key} has the shape {shape} and no numbers")


def _name(key: str) -> str:
    if len(key) > LONGEST_NAME:
        raise BadHeader(f"a tensor's name has {len(key)} characters: {key[:60]}...")
    return key


def _shape(key: str, shape: Any) -> tuple[int, ...]:
    whole = all(type(size) is int and size >= 0 for size in shape)
    if not whole or len(shape) > 8 or math.prod(max(1, size) for size in shape) > _LARGEST:
        raise BadHeader(f"{key} has the shape {str(shape)[:100]}")
    return tuple(shape)


@contextmanager
def opened(path: Path, kind: Kind) -> Iterator[Any]:
    """The file as the library opens it, its content not checked; CraftError if it is unreadable."""
    if not path.is_file():
        raise CraftError(
            f"{path.name} cannot be read. There is no file {path}",
            f"{kind.one} is a safetensors file",
            f"Check the name. {kind.again}",
        )
    try:
        _check_empty(path, read_shapes(path))
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, BadHeader, safetensors.SafetensorError) as error:
        raise CraftError(
            f"{path.name} cannot be read: it is damaged, or no safetensors file ({error})",
            f"{kind.one} is whole or not used",
            kind.again,
        ) from error


@contextmanager
def decoding(path: Path, kind: Kind) -> Iterator[None]:
    """Where numbers are made of a file's bytes: CraftError for those that torch makes nothing of,
    as of types that it does not know or cannot convert. Lack of memory stays what it is."""
    try:
        yield
    except CraftError:
        raise
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        if lacks_memory(error):
            raise
        raise kind.damaged(path, f"its numbers cannot be read ({error})") from error


def read_metadata(path: Path, kind: Kind) -> dict[str, str]:
    """The file's metadata, checked; its tensors are not read."""
    with opened(path, kind) as file:
        metadata = dict(file.metadata() or {})
    kind.check(path, metadata)
    return metadata


def read(path: Path, kind: Kind, mapped: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by key, sorted; metadata), checked. The tensors are copies: the file may change.

    mapped: they are the file itself, mapped into memory, for who reads large files that are
    replaced and not rewritten. Nothing is copied, and the system drops what it needs room for.
    """
    with opened(path, kind) as file:
        metadata = dict(file.metadata() or {})
        kind.check(path, metadata)
        with decoding(path, kind):
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
            return tensors if mapped else {k: one.clone() for k, one in tensors.items()}, metadata


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    noun: str,
    *,
    exclusive: bool = False,
    over: Callable[[], bool] = lambda: True,
) -> None:
    """Store tensors and metadata, keys sorted, dtypes kept, whole or not at all.

    noun: what the file is, for the message ("A LoRA"). Raises CraftError if it cannot be written,
    and Taken if it is exclusive and there is a file by then. over: as in write_whole.
    """
    try:
        write_whole(path, _serialised(tensors, metadata), exclusive=exclusive, over=over)
    except (OSError, MemoryError) as error:
        raise CraftError(
            f"{path.name} cannot be written ({str(error) or 'memory'})",
            f"{noun} is saved into an existing folder with room and write permission",
            "Check the folder and the disk, then try again",
        ) from error


def _serialised(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> list[bytes | memoryview]:
    """The file in pieces. The library writes metadata in random order; here it is sorted."""
    owned = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in sorted(tensors.items())
    }
    data = memoryview(safetensors.torch.save(owned))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]))
    if metadata:
        header = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to 8 bytes
    return [len(text).to_bytes(8, "little"), text, data[start:]]
