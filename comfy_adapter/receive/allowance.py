"""How much is taken in all, which bounds what whoever reaches the server can put on its disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

from ...client.loras.announced import VARIABLE, limit_of
from ...craft_core.errors import CraftError

MOST_AT_ONCE = 4
MOST_FILES = 1000  # of however few bytes, and also names for files that are there
SPARE = 10**9  # bytes of the disk that stay free
_SHOWN = 10**6


def limit_here() -> int:
    """Bytes that are taken until the host ends; 0 where nobody asked for it."""
    return limit_of(os.environ.get(VARIABLE, ""))


class Held:
    """Room that is set aside for a file; given back unless it `came`."""

    came = False


class Allowance:
    """What is left of the limit; used by the event loop alone."""

    def __init__(self) -> None:
        self._taken = self._files = self._running = self._coming = 0

    @contextmanager
    def holding(self, size: int, folder: Path) -> Iterator[Held]:
        """Set bytes aside for a file of the folder. CraftError where there is no room for them, or
        where too many are at it already."""
        limit, held = limit_here(), Held()
        if self._running >= MOST_AT_ONCE:
            raise CraftError(
                f"{self._running} LoRAs are on their way to this ComfyUI already",
                f"It takes {MOST_AT_ONCE} at once",
                "Run the command again when they have come",
            )
        if size > limit - self._taken:
            raise CraftError(
                f"A LoRA has {size} bytes, and this ComfyUI takes no more than "
                f"{max(0, limit - self._taken)} now",
                f"{VARIABLE} says how many it takes until it ends: {limit}, of which "
                f"{self._taken} have come",
                f"Start that ComfyUI with a larger {VARIABLE}, or put the file there by hand",
            )
        if self._files + self._running >= MOST_FILES:
            raise CraftError(
                f"{self._files} LoRAs have come to this ComfyUI since it was started",
                f"It takes {MOST_FILES}",
                "Start it again, or put the file there by hand",
            )
        free = disk_usage(folder).free
        if self._coming + size > free - SPARE:
            raise CraftError(
                f"A LoRA has {size // _SHOWN + 1} MB, and the disk of this ComfyUI's loras folder "
                f"has {free // _SHOWN} MB free",
                f"{SPARE // _SHOWN} MB of it stay free",
                "Make room there",
            )
        self._running += 1
        self._taken += size
        self._coming += size
        try:
            yield held
        finally:
            self._running -= 1
            self._coming -= size
            if held.came:
                self._files += 1
            else:
                self._taken -= size
