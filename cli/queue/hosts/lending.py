"""LoRAs of folders here, sent to servers that lack them: by name, and only the content that others
have under it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from ....client.errors import RemoteError
from ....client.facts import MISSING
from ....client.loras import sending
from ....client.loras.announced import MADE, SEND, lora_parts
from ....craft_core.errors import CraftError
from ....craft_core.file_hash import file_hash
from .host import Door

MOST_HOSTS = 4  # that are sent to at once; each takes the memory of a few pieces
MOST_TIMES = 3  # that a LoRA is sent to a server whose connection breaks
SHOWS = 1.0  # seconds between two words of how far it is
_MB = 1e6
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class OnTheWay:
    """How far a LoRA is."""

    name: str
    done: int
    size: int

    def __str__(self) -> str:
        return f"{self.name}: {self.done / _MB:.1f} of {self.size / _MB:.1f} MB"


@dataclass(frozen=True)
class NowThere:
    """A LoRA that a server has now. state: as it says how."""

    name: str
    size: int
    state: str

    def __str__(self) -> str:
        if self.state == MADE:
            return f"{self.name} is there: it had the content under another name"
        return f"{self.name} is there ({self.size} bytes)"


Watch = Callable[[OnTheWay | NowThere], None]


class LentLoras:
    """The LoRA files of folders, by the names that workflows have for them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise CraftError(
                    f"--send-loras {folder} is no folder",
                    "It has LoRA files under the names of the workflow, as ComfyUI's models/loras",
                    "Give such a folder",
                )
        self._folders = folders
        self._hashes: dict[tuple[str, int, int, int], str] = {}
        self._lock = Lock()

    def of(self, facts: Mapping[str, str]) -> list[str]:
        """The names of what a server lacks and a folder has."""
        lacking = (name for name, told in facts.items() if told == MISSING)
        return [name for name in lacking if self._path(name)]

    def send(
        self,
        door: Door,
        names: Iterable[str],
        others: Mapping[str, Mapping[str, str]],
        watch: Watch,
    ) -> None:
        """Send each to a server that lacks it. others: what further servers say of the same names.
        RemoteError where one has another content, before anything is sent; and as the door."""
        files = [(name, *self._file(name)) for name in names]
        for name, path, sha256, _ in files:
            for other, facts in others.items():
                if _HASH.fullmatch(facts.get(name, "")) and facts[name] != sha256:
                    raise RemoteError(
                        f"it lacks {name}, and {path} is another file than that on {other}, so "
                        "nothing is sent."
                    )
        for name, path, sha256, size in files:
            watch(NowThere(name, size, _sent(door, name, path, sha256, size, watch)))

    def _path(self, name: str) -> Path | None:
        """The file of the first folder that has the name."""
        try:
            parts = lora_parts(name.replace("\\", "/"))
        except CraftError:
            return None
        paths = (folder.joinpath(*parts) for folder in self._folders)
        return next((path for path in paths if path.is_file()), None)

    def _file(self, name: str) -> tuple[Path, str, int]:
        path = self._path(name)
        try:
            if path is None:
                raise FileNotFoundError("it is gone")
            return path, self._hash(path), path.stat().st_size
        except OSError as error:
            raise _unread(name, error) from error

    def _hash(self, path: Path) -> str:
        with self._lock:  # several servers may lack it
            status = path.stat()
            stamp = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp not in self._hashes:
                self._hashes[stamp] = file_hash(path)
            return self._hashes[stamp]


def _unread(name: str, error: OSError) -> RemoteError:
    return RemoteError(f"it lacks {name}, which cannot be read here ({error.strerror or error}).")


def _sent(door: Door, name: str, path: Path, sha256: str, size: int, watch: Watch) -> str:
    """What the server says of it in the end."""
    name = name.replace("\\", "/")
    state = door.call(sending.offer, name, sha256, size)
    if state != SEND:
        return state
    token = door.call(sending.begin_upload, name, sha256, size)
    try:
        _pass_on(door, token, name, path, size, watch)
        return door.call(sending.end_upload, token)
    except BaseException:  # whatever ended it, the server is not left waiting
        with suppress(Exception):
            door.call(sending.drop_upload, token)
        raise


def _pass_on(door: Door, token: str, name: str, path: Path, size: int, watch: Watch) -> None:
    done, shown = 0, -SHOWS
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unread(name, error) from error
    with file:
        while done < size:
            now = time.monotonic()
            if now - shown >= SHOWS:
                shown = now
                watch(OnTheWay(name, done, size))
            try:
                piece = file.read(min(sending.PIECE, size - done))
            except OSError as error:
                raise _unread(name, error) from error
            if not piece:
                raise RemoteError(f"it lacks {name}, and {path} became shorter as it was sent.")
            door.aside(sending.send_piece, token, piece)  # the server awaits it, whoever has a turn
            done += len(piece)
