"""Read and write safetensors files: the same content gives the same bytes, a file appears whole or
not at all, and a file of another kind is refused with the name of the kind that was expected."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .errors import CraftError

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL}


_CHUNK = 1 << 24


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
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        raise CraftError(
            f"{path.name} cannot be read: it is damaged, or no safetensors file ({error})",
            f"{kind.one} is whole or not used",
            kind.again,
        ) from error


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
        tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
        return tensors if mapped else {k: one.clone() for k, one in tensors.items()}, metadata


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a whole file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Taken(CraftError):
    """There is a file already, at a path where none may be replaced."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is there already",
            "It is never written over another file",
            "Choose another name",
        )


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    noun: str,
    *,
    exclusive: bool = False,
) -> None:
    """Store tensors and metadata, keys sorted, dtypes kept: a file beside `path`, then a rename.

    noun: what the file is, for the message ("A LoRA"). Raises CraftError if it cannot be written,
    and Taken if it is exclusive and there is a file by then.
    """
    beside = path.with_name(f".{secrets.token_hex(8)}.tmp")
    pieces = _serialised(tensors, metadata)
    try:
        with open(beside, "xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            _place(beside, path)
        else:
            os.replace(beside, path)
    except FileExistsError as error:
        raise Taken(path) from error
    except OSError as error:
        raise CraftError(
            f"{path.name} cannot be written ({error})",
            f"{noun} is saved into an existing folder with room and write permission",
            "Check the folder and the disk, then try again",
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in the folder; one is made and removed to find out."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _place(beside: Path, path: Path) -> None:
    """Move the file to its path; FileExistsError if there is one. A hard link does both in one
    step; on a file system without links an empty file takes the path and is then replaced."""
    try:
        os.link(beside, path)
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    path.open("xb").close()
    try:
        os.replace(beside, path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


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
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to 8 bytes
    return [len(text).to_bytes(8, "little"), text, data[start:]]
