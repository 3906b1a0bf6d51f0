"""One command at a time writes into an output folder."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...craft_core.errors import CraftError, plain

NAME = ".queue.lock"
_MOST = 200  # characters of who holds it
_FAR = 1 << 30  # Windows locks a byte so that nobody can read it: one behind the text


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder for the block; CraftError, with who has it, where another command does.

    The system lets go of what a killed command held. OSError where no file can be made there.
    """
    path = folder / NAME
    file = _opened(path)
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}".encode())
        file.flush()
        yield
    finally:
        if os.name == "nt":  # where an open file cannot be removed
            file.close()
            _remove(path)
        else:
            _remove(path)
            file.close()


def _opened(path: Path) -> Any:
    """The lock's file, locked, and still at its path: the holder before may have removed it."""
    while True:
        file = open(path, "a+b", buffering=0)
        if not _lock(file):
            file.seek(0)
            holder = plain(file.read(_MOST).decode("utf-8", "replace")) or "another command"
            file.close()
            raise CraftError(
                f"{path.parent} is being written to by {holder}",
                "One queue command at a time writes into a folder, so that no file is lost",
                "Wait until it has ended, stop it, or give another folder with --out",
            )
        try:
            same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except FileNotFoundError:
            same = False
        if same or os.name == "nt":
            return file
        file.close()


def _lock(file: Any) -> bool:
    """Whether this process has the file now. Also where the file system has no locks: names are
    taken one by one all the same."""
    try:
        if os.name == "nt":
            windows = importlib.import_module("msvcrt")
            file.seek(_FAR)
            windows.locking(file.fileno(), windows.LK_NBLCK, 1)
        else:
            posix = importlib.import_module("fcntl")
            posix.flock(file.fileno(), posix.LOCK_EX | posix.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # another command has opened it by now
