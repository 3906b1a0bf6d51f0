"""A file that comes in pieces: hashed as it comes, looked at when it is whole, then given its name.

Its methods are called in threads, one after another; `close` may be called at any time.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from threading import Lock

from ...client.loras.announced import Announced
from ...craft_core.errors import CraftError
from ...craft_core.lora.storage import KIND
from ...craft_core.tensor_file import opened
from ...craft_core.writing import PartialFile
from .places import folders_of, nearest, taken, target_of


class Incoming:
    """A LoRA that is announced, on its way to a path of the loras folder."""

    def __init__(self, one: Announced, target: Path) -> None:
        self._one, self._target = one, target
        self._file: PartialFile | None = None
        self._digest, self._size = hashlib.sha256(), 0
        self._closed, self._lock = False, Lock()

    def write(self, piece: bytes) -> None:
        """OSError where it cannot be written, CraftError for more than was announced."""
        with self._lock:
            if self._closed:
                raise OSError("the connection was closed")
            if self._file is None:
                self._file = PartialFile(nearest(self._target))
            self._size += len(piece)
            if self._size > self._one.size:
                raise self._other()
            self._digest.update(piece)
            self._file.write(piece)

    def place(self) -> None:
        """Give it its name; CraftError where it is not what was announced, or no safetensors file.
        FileExistsError where there is a file by then."""
        with self._lock:
            whole = self._size == self._one.size
            if not whole or self._digest.hexdigest() != self._one.sha256:
                raise self._other()
            if self._closed or self._file is None:
                raise OSError("the connection was closed")
            self._file.flush()
            try:
                with opened(self._file.path, KIND):
                    pass
            except CraftError as error:
                raise CraftError(
                    f"What came as {self._one.name} is damaged, or no safetensors file",
                    "LoRAs are received as whole safetensors files alone",
                    "Send another file, or convert it",
                ) from error
            with folders_of(self._target):
                if target_of(self._one) != self._target:  # a folder became a link meanwhile
                    raise taken(self._one)
                self._file.place(self._target, exclusive=True)
            with suppress(OSError):  # it has its name; what is left beside it goes another time
                self._file.close()

    def close(self) -> None:
        """What has no name by now is gone."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()

    def _other(self) -> CraftError:
        return CraftError(
            f"Of {self._one.name} {self._size} bytes came, which are not the {self._one.size} that "
            "were announced, or have another hash",
            "A file comes whole and unchanged, or is not kept",
            "Run the command again, when nothing else writes that file",
        )
