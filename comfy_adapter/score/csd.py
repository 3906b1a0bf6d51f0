"""CSD's encoders of style and of content, on the host's own class of CLIP's tower.

Somepalli et al. 2024, arXiv:2404.01292. Its release prepares a picture as CLIP does: resized by
bicubic interpolation until its shorter side is 224 pixels, cropped in the middle, with CLIP's mean
and deviation.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.utils
import folder_paths
import torch
from torch import Tensor
from torch.nn import functional

from ...craft_core.errors import CraftError
from ...craft_core.evaluation.encoders.csd_file import (
    CONTENT,
    HEAD_WIDTH,
    STYLE,
    TOWER,
    CSDSizes,
    read_csd,
)
from ...craft_core.types import Role
from ..model.host_files import path_by_name
from .vision import batches, weights_digest

FOLDER = "clip_vision"  # of the host's models
_MATRICES: dict[Role, str] = {"content": CONTENT, "style": STYLE}


@dataclass(frozen=True, eq=False)
class CSDEncoder:
    """A PictureEncoder.

    tower: the host's class, with the file's weights. matrix: (width, features) of the role.
    weights: digits that differ between files.
    """

    tower: Any
    role: Role
    matrix: Tensor
    weights: str

    @property
    def name(self) -> str:
        config = self.tower.config
        return (
            f"CSD ({config['num_hidden_layers']} layers of width {config['hidden_size']}, "
            f"{self.role}, weights {self.weights})"
        )

    @property
    def preprocessing(self) -> str:
        size = self.tower.image_size
        return (
            f"{size} x {size} by bicubic resizing, cropped in the middle, with CLIP's mean and "
            "deviation"
        )

    def features(self, pictures: Tensor) -> Tensor:
        """Pictures (B, h, w, 3) in [0, 1] -> unit vectors (B, features)."""
        found = [
            self.tower.encode_image(some, crop=True)["image_embeds"].float().cpu()
            for some in batches(pictures)
        ]  # (b, width): the tower has no projection, and gives the class token
        return functional.normalize(torch.cat(found) @ self.matrix, dim=1)


def load_csd(path: Path) -> dict[Role, CSDEncoder]:
    """The encoders of a CSD file, on one tower; CraftError for another file."""
    file = read_csd(path, mapped=not comfy.utils.DISABLE_MMAP)
    digest = weights_digest(file.tensors)
    tower = _tower(file.sizes)
    own = {name: one for name, one in file.tensors.items() if name.startswith(TOWER)}
    missing, unexpected = tower.load_sd(comfy.clip_vision.convert_to_transformers(own, TOWER))
    assert not missing and not unexpected, (missing, unexpected)
    return {
        role: CSDEncoder(tower, role, file.tensors[name].float().clone(), digest)
        for role, name in _MATRICES.items()
    }


def csd_path(name: str) -> Path:
    """Where the file of that name is; CraftError if there is none."""
    path = path_by_name(FOLDER, name)
    if path is None:
        raise CraftError(
            f"There is no file {name!r} in models/{FOLDER}",
            "CSD's file is where Load CLIP Vision finds its own",
            "Put the file there and refresh the page",
        )
    return Path(path)


def require_csd(name: str) -> None:
    """CraftError unless the file of that name is CSD's."""
    read_csd(csd_path(name))


def csd_files() -> list[str]:
    """Names of the files in models/clip_vision and further folders of that kind."""
    return folder_paths.get_filename_list(FOLDER)


def _tower(sizes: CSDSizes) -> Any:
    """The host's class of these sizes, its weights not set. Older ComfyUI takes a file only."""
    config = {
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "hidden_size": sizes.width,
        "intermediate_size": 4 * sizes.width,
        "num_attention_heads": sizes.width // HEAD_WIDTH,
        "num_hidden_layers": sizes.layers,
        "num_channels": 3,
        "patch_size": sizes.patch,
        "image_size": sizes.image,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "csd.json")
        file.write_text(json.dumps(config))
        return comfy.clip_vision.ClipVisionModel(str(file))
