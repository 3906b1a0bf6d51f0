"""A file appears whole or not at all, under a name that no other file loses; what a killed program
left half-written is removed at the next save into the folder."""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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
_C = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_HERE, _REPLACE_NOTHING = -100, 1  # AT_FDCWD, RENAME_NOREPLACE


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

    def place(
        self,
        path: Path,
        *,
        exclusive: bool = False,
        over: Callable[[], bool] = lambda: True,
    ) -> None:
        """Move the file to its name. FileExistsError if it is exclusive and there is one, and where
        over, which is asked while no other place or move_new acts in the folder, says no."""
        self.flush()
        move = _place if exclusive else replace_file
        if not _LOCKS:  # there no file that is open is moved; else its lock is kept until then
            self._file.close()
        with _names_of(path.parent):
            if not over():
                raise FileExistsError(errno.EEXIST, "Another file has the name", str(path))
            move(self.path, path)
        self._file.close()

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            with suppress(PermissionError):  # then a later save removes it
                _patiently(partial(self.path.unlink, missing_ok=True))


def write_whole(
    path: Path,
    pieces: Iterable[bytes | memoryview],
    *,
    exclusive: bool = False,
    over: Callable[[], bool] = lambda: True,
) -> None:
    """Write a file beside `path`, then move it there. OSError if it cannot be written; Taken if it
    is exclusive and there is a file by then. over: as PartialFile.place, with Taken where it says
    no."""
    try:
        with PartialFile(path.parent) as file:
            for piece in pieces:
                file.write(piece)
            file.place(path, exclusive=exclusive, over=over)
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


def move_new(path: Path, other: Path) -> None:
    """Give a file another name in its folder, which none has: FileExistsError where one has it,
    FileNotFoundError where the file is not there."""
    with _names_of(path.parent):
        _place(path, other)
        with suppress(FileNotFoundError):
            _patiently(path.unlink)


def remove_only(path: Path, only_if: Callable[[], bool]) -> None:
    """Remove a file while only_if says that it is the one; OSError where that is refused."""
    with _names_of(path.parent):
        if only_if():
            _patiently(partial(path.unlink, missing_ok=True))


@contextmanager
def _names_of(folder: Path) -> Iterator[None]:
    """While nobody else here gives a file of the folder its name: a look at a name, and a move over
    it, are one step. Where folders have no locks, as on Windows, they are two that follow at
    once."""
    if _LOCKS is None:
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield  # the move says what is wrong with the folder
        return
    try:
        with suppress(OSError):  # a file system without locks
            _LOCKS.flock(handle, _LOCKS.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
    step, and so does a move that replaces nothing, where the file system has no links. Without
    either an empty file takes the path and is then replaced."""
    try:
        _patiently(partial(os.link, beside, path))
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    if _moved(beside, path):
        return
    path.open("xb").close()
    try:
        replace_file(beside, path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _moved(beside: Path, path: Path) -> bool:
    """Move the file by the system's own move that replaces nothing; whether there is one.
    FileExistsError."""
    if sys.platform == "win32":
        _patiently(partial(os.rename, beside, path))
        return True
    move = getattr(_C, "renameat2", None) if sys.platform == "linux" else None
    if move is None:
        return False
    if move(_HERE, os.fsencode(beside), _HERE, os.fsencode(path), _REPLACE_NOTHING) == 0:
        return True
    if ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return False  # not of this file system; what else is wrong is met again


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
