"""A file appears whole or not at all, under a name that no other file loses; what a killed program
left half-written is removed at the next save into the folder."""

from __future__ import annotations

import errno
import importlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import CraftError

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL}
_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.tmp")
_ABANDONED = 3600.0  # seconds: what no program can have kept empty, where there are no locks


def _locks() -> ModuleType | None:
    """The locks of POSIX; None on Windows, where a file that is open cannot be removed."""
    try:
        return importlib.import_module("fcntl")
    except ImportError:
        return None


_LOCKS = _locks()


class Taken(CraftError):
    """There is a file already, at a path where none may be replaced."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is there already",
            "It is never written over another file",
            "Choose another name",
        )


class PartialFile:
    """A file that is being written into a folder. It has no name of its own before it is placed;
    closed before, it is gone. OSError where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        _remove_abandoned(folder)
        self.path = folder / f".{secrets.token_hex(8)}.tmp"
        self._file = open(self.path, "xb")
        _lock(self._file)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        self._file.write(piece)

    def flush(self) -> None:
        """All that was written is on the disk, and read by whoever opens `path`."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def place(self, path: Path, *, exclusive: bool = False) -> None:
        """Move the file to its name. FileExistsError if it is exclusive and there is one."""
        self.flush()
        if _LOCKS:  # in its place before the lock is given up
            _move(self.path, path, exclusive)
            self._file.close()
        else:
            self._file.close()
            _move(self.path, path, exclusive)

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self.path.unlink(missing_ok=True)


def write_whole(
    path: Path, pieces: Iterable[bytes | memoryview], *, exclusive: bool = False
) -> None:
    """Write a file beside `path`, then move it there. OSError if it cannot be written; Taken if it
    is exclusive and there is a file by then."""
    try:
        with PartialFile(path.parent) as file:
            for piece in pieces:
                file.write(piece)
            file.place(path, exclusive=exclusive)
    except FileExistsError as error:
        raise Taken(path) from error


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in the folder; one is made and removed to find out."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError):
        return False
    return True


def _move(beside: Path, path: Path, exclusive: bool) -> None:
    if exclusive:
        _place(beside, path)
    else:
        os.replace(beside, path)


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


def _lock(file: Any) -> bool:
    """Hold the file until it is closed; whether nobody else does. The system lets go of what a
    killed program held."""
    if _LOCKS is None:
        return True
    try:
        _LOCKS.flock(file.fileno(), _LOCKS.LOCK_EX | _LOCKS.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_abandoned(folder: Path) -> None:
    """Remove the partial files of programs that were killed, and none that is being written."""
    try:
        left = [one for one in os.scandir(folder) if _PARTIAL.fullmatch(one.name)]
    except OSError:
        return
    for one in left:
        try:
            with open(one.path, "rb") as file:
                here = os.fstat(file.fileno())
                # An empty one may be another program's that has yet to lock it.
                gone = here.st_size > 0 or _age(folder, here.st_mtime) > _ABANDONED
                if _LOCKS and gone and _lock(file):
                    os.unlink(one.path)
            if not _LOCKS and gone:
                os.unlink(one.path)
        except OSError:
            continue  # another program's, or removed by one


def _age(folder: Path, modified: float) -> float:
    """Seconds since, by the clock of the folder's file system."""
    try:
        with tempfile.TemporaryFile(dir=folder) as now:
            return os.fstat(now.fileno()).st_mtime - modified
    except OSError:
        return 0.0
