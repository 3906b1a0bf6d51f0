"""A CLIP text tower from a file, loaded by the host: texts as vectors in the space of pictures.

The host's CLIP object does not say whether its file had the projection: it leaves the matrix unset
where the file has none, and drops it from SD1.x checkpoints. So the file is read first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.sd1_clip
import folder_paths
import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.evaluation.encoders.text_tower_file import (
    HEAD_WIDTH,
    TextTower,
    read_text_tower,
)
from ..model.host_files import path_by_name
from ..model.stamps import stamp
from .vision import weights_digest

FOLDERS = ("text_encoders", "clip_vision")  # of the host's models; whole CLIPs lie in the second


@dataclass(frozen=True, eq=False)
class ClipTextEncoder:
    """A TextEncoder.

    clip: the host's, with the file's weights, which gives projected vectors. name: class, sizes and
    digits that differ between files. tokens: how many of a text it looks at.
    """

    clip: comfy.sd.CLIP
    name: str
    width: int
    tokens: int

    @property
    def preprocessing(self) -> str:
        return f"the first {self.tokens} tokens"

    def features(self, texts: Sequence[str]) -> Tensor:
        """Texts (n) -> (n, width); a text that stands several times is encoded once."""
        found = {text: self._vector(text) for text in dict.fromkeys(texts)}
        return torch.cat([found[text] for text in texts])

    def cuts(self, text: str) -> bool:
        """Whether the host makes sections of the text: the first of them has the vector."""
        return any(len(sections) > 1 for sections in self.clip.tokenize(text).values())

    def _vector(self, text: str) -> Tensor:
        pooled = self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True)[1]
        return pooled.float().cpu()  # (1, width)


def load_text_encoder(path: Path) -> ClipTextEncoder:
    """The text encoder of a file; CraftError for one without text tower or projection."""
    tower = read_text_tower(path)
    clip = comfy.sd.load_clip(
        [str(path)],
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options=_options(tower),
    )
    network = getattr(clip.cond_stage_model, clip.cond_stage_model.clip).transformer
    digest = weights_digest(network.state_dict())
    _check_projection(network.text_projection.weight, tower.projection)
    name = (
        f"CLIP's text tower ({tower.layers} layers of width {tower.width}, projected, weights "
        f"{digest})"
    )
    return ClipTextEncoder(clip, name, tower.width, tower.tokens)


def text_encoder_path(name: str) -> Path:
    """Where the file of that name is; CraftError if there is none, or another of the same name."""
    paths = [path for folder in FOLDERS if (path := path_by_name(folder, name)) is not None]
    if not paths:
        raise CraftError(
            f"There is no file {name!r} in models/{FOLDERS[0]} and models/{FOLDERS[1]}",
            "A text encoder's file lies in one of the two",
            "Put the file there and refresh the page",
        )
    if any(not os.path.samefile(paths[0], other) for other in paths[1:]):
        raise CraftError(
            f"There are two files {name!r}: in models/{FOLDERS[0]} and in models/{FOLDERS[1]}",
            "A name stands for one file",
            "Rename one of them and refresh the page",
        )
    return Path(paths[0])


def require_text_encoder(name: str) -> None:
    """CraftError unless the file of that name has a text tower with its projection."""
    read_text_tower(text_encoder_path(name))


def text_encoder_files() -> list[str]:
    """Names of the files in models/text_encoders and models/clip_vision."""
    found = [name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)]
    return list(dict.fromkeys(found))


def text_encoder_stamp(name: str | None) -> str:
    """What changes when a file of that name is replaced, in either folder."""
    return " ".join(stamp(folder, name) for folder in FOLDERS)


def _check_projection(loaded: Tensor, given: Tensor) -> None:
    """AssertionError unless the host has the file's, rounded to the type that it holds it in."""
    given = given.float()
    assert torch.dist(loaded.detach().cpu().float(), given) < 0.1 * given.norm()


def _options(tower: TextTower) -> dict[str, Any]:
    """For the host's loader: the tower's sizes, and a class that gives projected vectors.

    The host takes the sizes of ViT-L and ViT-bigG from `model_config`, those of ViT-H by its own
    name. Its class of ViT-L, SD1.x's, gives vectors before the projection.
    """
    sizes = {
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "num_attention_heads": tower.width // HEAD_WIDTH,
        "num_hidden_layers": tower.layers,
    }
    return {
        "model_config": dict(sizes),
        "clip_h_model_config": dict(sizes),
        "clip_l_class": comfy.sd1_clip.SDClipModel,
    }
