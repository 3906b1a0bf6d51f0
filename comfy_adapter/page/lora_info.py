"""What the page shows of a LoRA file: kinds and ranks, base model, trigger words, its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import folder_paths

from ...craft_core.lora.header.base_model import base_model
from ...craft_core.lora.header.layers import read_lora_header
from ...craft_core.projection import trained_backbone
from ...craft_core.routing.trigger_words import trigger_words
from ..model.lora_files import FOLDER, require

_PREVIEW = "/experiment/models/preview"  # the host's route of the picture beside a model file


def lora_info(name: str) -> dict[str, Any]:
    """{"kinds": {kind: layers}, "ranks": [...], "text_encoder": matrices, "family", "stated",
    "basis": of the rank-limited backbone that it was trained on or "", "words": [...], "picture":
    the host's address of it or None}; CraftError where it cannot be read."""
    path = Path(require(name))
    header = read_lora_header(path)
    family, stated = base_model(header.metadata, [*header.layers, *header.others])
    return {
        "kinds": header.kinds,
        "ranks": header.ranks,
        "text_encoder": len(header.text_encoder),
        "family": family,
        "stated": list(stated),
        "basis": trained_backbone(header.metadata),
        "words": list(trigger_words(header.metadata)),
        "picture": _picture(path),
    }


def _picture(path: Path) -> str | None:
    beside = [str(one) for one in path.parent.iterdir() if one.name.startswith(f"{path.stem}.")]
    if not folder_paths.filter_files_content_types(beside, ["image"]):
        return None
    for index, folder in enumerate(folder_paths.get_folder_paths(FOLDER)):
        if path.is_relative_to(folder):
            return f"{_PREVIEW}/{FOLDER}/{index}/{quote(path.relative_to(folder).as_posix())}"
    return None
