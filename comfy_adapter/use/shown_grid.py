"""What XY Grid has shown of its last run, in a file, so that a page that is loaded again shows it.

A file for each node of a workflow, a line for each thing the page was told. The host keeps what
nodes show while the page stays open, and of a run that was stopped nothing at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths

from ...craft_core.json_text import shallow_json

_MOST_GRIDS = 16  # the oldest others are removed
_MOST_BYTES = 16 << 20  # of one grid; of a larger one the first cells are kept


@dataclass
class ShownGrid:
    """path: None to keep nothing."""

    path: Path | None

    @staticmethod
    def begun(workflow: Any, node: Any) -> ShownGrid:
        """That of a run that begins; what the node showed before is forgotten. workflow: the id of
        the workflow that the prompt was queued from; a prompt of none keeps nothing. node: its id
        in the prompt."""
        if not isinstance(workflow, str) or not workflow:
            return ShownGrid(None)
        path = _path(workflow, str(node))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            _remove_oldest(path)
        except OSError as error:
            _warn(error)
            return ShownGrid(None)
        return ShownGrid(path)

    def add(self, text: str, grid: Mapping[str, Any]) -> None:
        """What the page is told: a line, and a grid of the cells that are new. A folder that takes
        no file is no fault: then a page that is loaded again shows no grid."""
        if self.path is None:
            return
        line = json.dumps([text, grid]).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                if file.tell() + len(line) <= _MOST_BYTES:
                    file.write(line)
        except OSError as error:
            _warn(error)
            self.path = None


def shown_grid(workflow: str, node: str) -> dict[str, Any] | None:
    """{"text": the last line, "grid": labels and all cells} of the node's last run; None where
    there was none, or it is no longer kept. OSError."""
    path = _path(workflow, node)
    if not path.is_file():
        return None
    found: tuple[str, dict[str, Any]] | None = None
    cells: dict[tuple[int, int], Any] = {}
    with path.open("rb") as file:
        kept = file.read(_MOST_BYTES)
    for line in kept.splitlines():
        try:
            text, grid = shallow_json(line)
            cells |= {(cell["row"], cell["column"]): cell for cell in grid["cells"]}
            found = str(text), {**grid}
        except (ValueError, TypeError, KeyError):  # cut or damaged
            continue
    if found is None:
        return None
    return {"text": found[0], "grid": {**found[1], "cells": list(cells.values())}}


def _path(workflow: str, node: str) -> Path:
    """A name that nothing in the ids can lead elsewhere."""
    digest = hashlib.sha256(json.dumps([workflow, node]).encode()).hexdigest()
    return _root() / f"{digest}.jsonl"


def _remove_oldest(own: Path) -> None:
    others = [(path.stat().st_mtime_ns, path) for path in own.parent.glob("*.jsonl") if path != own]
    for _, old in sorted(others, reverse=True)[_MOST_GRIDS - 1 :]:
        old.unlink(missing_ok=True)


def _root() -> Path:
    """Inside the host's user folder, under a name that its HTTP routes do not serve."""
    return Path(folder_paths.get_user_directory()) / "__craft_lora" / "xy_grid_shown"


def _warn(error: Exception) -> None:
    logging.getLogger("craft").warning("What the grid shows cannot be stored: %s", error)
