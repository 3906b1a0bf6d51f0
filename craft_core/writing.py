"""A file appears whole or not at all, under a name that no other file loses; what a killed program
left half-written is removed at the next save into the folder."""

from __future__ import annotations

import errno
import importlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import CraftError

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL}
_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.tmp")
_ABANDONED = 3600.0  # seconds in which a program writes into its file, or places it
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds; a virus scanner has a new file open for less


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
        self.path = folder / f".{secrets.token_hex(8)}.tmp"
        self._file = open(self.path, "xb")
        _lock(self._file)
        _remove_abandoned(self.path, os.fstat(self._file.fileno()).st_mtime)

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
        move = _place if exclusive else replace_file
        if _LOCKS:  # in its place before the lock is given up
            move(self.path, path)
            self._file.close()
        else:
            self._file.close()
            move(self.path, path)

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            with suppress(PermissionError):  # then a later save removes it
                _patiently(partial(self.path.unlink, missing_ok=True))


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
    try:  # not by tempfile, which older Pythons let try for ever on Windows
        PartialFile(folder).close()
    except (OSError, ValueError):
        return False
    return True


def replace_file(path: Path, other: Path) -> None:
    """Move a file to another name, over the file that has it. OSError where that is refused."""
    _patiently(partial(os.replace, path, other))


def _patiently(move: Callable[[], None]) -> None:
    """Do it; on Windows, where a file that somebody reads is not moved or removed, again for a
    moment."""
    for pause in () if _LOCKS else _PAUSES:
        try:
            return move()
        except PermissionError:
            time.sleep(pause)
    move()


def _place(beside: Path, path: Path) -> None:
    """Move the file to its path; FileExistsError if there is one. A hard link does both in one
    step; on a file system without links an empty file takes the path and is then replaced."""
    try:
        _patiently(partial(os.link, beside, path))
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    path.open("xb").close()
    try:
        replace_file(beside, path)
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


def _remove_abandoned(new: Path, now: float) -> None:
    """Remove the partial files of programs that were killed, and none that is being written.

    new: a file that was just made. now: when, by the clock of the folder's file system.
    """
    try:
        others = [Path(one) for one in os.scandir(new.parent) if _PARTIAL.fullmatch(one.name)]
    except OSError:
        return
    remove = _remove_unlocked if _LOCKS else _remove_old
    for one in others:
        if one.name != new.name:
            with suppress(OSError):  # another program's, or removed by one
                remove(one, now)


def _remove_unlocked(path: Path, now: float) -> None:
    with open(path, "rb") as file:
        here = os.fstat(file.fileno())
        # An empty one may be another program's that has yet to lock it.
        gone = here.st_size > 0 or now - here.st_mtime > _ABANDONED
        if gone and _lock(file):
            path.unlink()


def _remove_old(path: Path, now: float) -> None:
    """Where there are no locks. It is not opened, so that whoever is about to place it can; Windows
    refuses to remove what is being written."""
    if now - path.stat().st_mtime > _ABANDONED:
        path.unlink()
