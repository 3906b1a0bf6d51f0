"""How many layers each preset takes on a model file, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...craft_core.errors import CraftError
from ...craft_core.routing.layer_sets import resolve
from ...craft_core.routing.presets import OF_MODEL
from ..model.file_layers import file_layers
from .widgets import CUSTOM

_FILES = 8  # whose layers are kept, so that typing patterns reads no file


def layer_counts(path: Path, patterns: str = "") -> dict[str, Any]:
    """{"layers": all, "sets": {entry of the menu: {"content", "style", "unmatched"} or {"error"}}}.

    patterns: the user's own, as `custom`; none if empty. `auto` is left out: it needs the LoRAs.
    """
    stat = path.stat()
    layers = _layers(path, stat.st_mtime_ns, stat.st_size)
    texts = {key: key for key in OF_MODEL}
    if patterns:
        texts[CUSTOM] = patterns
    return {
        "layers": len(layers),
        "sets": {entry: _counted(text, layers) for entry, text in texts.items()},
    }


@lru_cache(maxsize=_FILES)
def _layers(path: Path, modified: int, size: int) -> Mapping[str, tuple[int, ...]]:
    return file_layers(path)


def _counted(text: str, layers: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    try:
        sets = resolve(text, layers)
    except CraftError as error:
        return {"error": str(error)}
    return {
        "content": len(sets.content),
        "style": len(sets.style),
        "unmatched": list(sets.unmatched),
    }
