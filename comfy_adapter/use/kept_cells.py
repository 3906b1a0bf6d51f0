"""The latents of a grid's cells, in files: a stopped grid goes on, and a larger one uses them.

A folder for all that cells have in common, a file a cell. Nothing in a file says which MODEL it is
of, as a MODEL has no name: one cell of each kind of guidance is made again, the one that guidance
takes farthest, and where it differs all of that kind are forgotten.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.lora.factors import is_plain_float
from ...craft_core.search import GridSetting
from ...craft_core.tensor_file import Kind, read, save
from .sampling import guidance_of
from .search_journal import content_of

_FORMAT = "2"  # another where the same parts give other latents, or are stored otherwise
_KIND = Kind("cell of a grid", "Press Run again")
_MOST_FOLDERS = 16  # the oldest others are removed
_MOST_BYTES = 2 << 30  # of the cells of all grids; the longest unused are removed
_DIGITS = 32  # of a file's name: Windows takes paths of 259 letters
_SAME = 0.01  # how far latents of one picture may differ on the mean, as on a GPU they do


@dataclass
class KeptCells:
    """folder: None to keep nothing."""

    folder: Path | None

    @staticmethod
    def of(parts: Any) -> KeptCells:
        """Those of a grid. parts: what its latents depend on besides the cell's own setting and the
        MODEL, as far as it has a content, in lists and dicts."""
        name = hashlib.sha256(content_of([_FORMAT, parts]).encode()).hexdigest()
        root = _root()
        try:
            root.mkdir(parents=True, exist_ok=True)
            others = [one for one in root.iterdir() if one.is_dir() and one.name != name]
            others.sort(key=lambda one: one.stat().st_mtime, reverse=True)
            for old in others[_MOST_FOLDERS - 1 :]:
                shutil.rmtree(old, ignore_errors=True)
            (root / name).mkdir(exist_ok=True)
            os.utime(root / name)  # used now, also where nothing is written
        except OSError as error:
            _warn(error)
            return KeptCells(None)
        return KeptCells(root / name)

    @property
    def empty(self) -> bool:
        return self.folder is None or not any(self.folder.glob("*.safetensors"))

    def get(self, setting: GridSetting) -> Tensor | None:
        """The latent of a cell; None where none is kept, or it cannot be read."""
        path = self._path(setting)
        if path is None or not path.is_file():
            return None
        try:
            os.utime(path)  # not among the oldest, which are removed
            latent = read(path, _KIND)[0].get("samples")
        except (CraftError, OSError):
            return None
        return latent if latent is not None and is_plain_float(latent) else None

    def put(self, setting: GridSetting, latent: Tensor) -> None:
        """A folder that takes no file is no fault: then a stopped grid begins anew. So it does
        where latents are nested, as those of picture and sound are."""
        path = self._path(setting)
        if path is None or latent.is_nested:
            return
        try:
            save(path, {"samples": latent}, {}, "A cell")
            _remove_oldest(path.parents[1])
        except (CraftError, OSError) as error:
            _warn(error)
            self.folder = None

    def forget(self, evaluations: str, beyond: float = -1.0) -> None:
        """The cells of these evaluations that guidance takes farther than so."""
        try:
            for path in self.folder.glob(f"{evaluations}_*_*.safetensors") if self.folder else ():
                of, distance, _ = path.stem.rsplit("_", 2)  # as _path names it
                if of == evaluations and float(distance) > beyond:
                    path.unlink(missing_ok=True)
        except OSError as error:
            _warn(error)
            self.folder = None

    def _path(self, setting: GridSetting) -> Path | None:
        if self.folder is None:
            return None
        text = json.dumps(setting.as_preset(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
        shown = guidance_of(setting.line, setting.cfg)
        return self.folder / f"{shown.evaluations}_{shown.distance:g}_{digest}.safetensors"


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether two latents are of one picture by one MODEL."""
    if one.is_nested or one.shape != other.shape:
        return False
    one, other = one.float().cpu(), other.float().cpu()
    return bool((one - other).abs().mean() <= _SAME * other.abs().mean())


def _remove_oldest(root: Path) -> None:
    """Keep at most _MOST_BYTES of cells."""
    files = [(path, path.stat()) for path in root.glob("*/*.safetensors")]
    size = sum(found.st_size for _, found in files)
    for path, found in sorted(files, key=lambda one: one[1].st_mtime_ns):
        if size <= _MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        size -= found.st_size


def _root() -> Path:
    """Inside the host's user folder, under a name that its HTTP routes do not serve."""
    return Path(folder_paths.get_user_directory()) / "__craft_lora" / "xy_grid"


def _warn(error: Exception) -> None:
    logging.getLogger("craft").warning("The cells of the grid cannot be stored: %s", error)
