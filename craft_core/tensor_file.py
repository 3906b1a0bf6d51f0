"""Write safetensors files: the same content gives the same bytes, and a file appears whole or not
at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from .errors import CraftError

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL}


class Taken(CraftError):
    """There is a file where one was to be written that replaces none."""

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
    """Whether a file can be made in it, found by making one that is gone at once."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _place(beside: Path, path: Path) -> None:
    """The file at its place, where none may be: FileExistsError. A link does that in one step;
    without links the name is taken first and the file renamed over it."""
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
