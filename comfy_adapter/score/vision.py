"""The host's CLIP_VISION (CLIP, SigLIP, DINO) as an encoder that says which one it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.evaluation import PictureEncoder
from ...craft_core.types import Role

FAMILIES = {
    "clip_vision_model": "CLIP",
    "siglip_vision_model": "SigLIP",
    "siglip2_vision_model": "SigLIP 2",
    "dinov2": "DINOv2",
    "dinov3": "DINOv3",
}
CROPS = ("center", "none")
_AT_ONCE, _PIXELS_AT_ONCE = 16, 16 * 1024**2  # pictures, and pixels of them all together
_FIRST = 64  # numbers of a tensor, for telling files apart


def encoders_by_role(
    given: Sequence[Any], for_style: Sequence[Any], crop: str = CROPS[0]
) -> dict[Role, PictureEncoder]:
    """The encoders of content and style. given: one CLIP_VISION or PictureEncoder; for_style:
    another that looks at style instead, or none.

    CraftError for several of them, and for none that looks at content.
    """
    given, for_style = ([one for one in some if one is not None] for some in (given, for_style))
    if not given:
        raise CraftError(
            "There is no clip_vision", "It looks at content, style_clip_vision at style alone",
            "Connect clip_vision",
        )  # fmt: skip
    for name, some in (("clip_vision", given), ("style_clip_vision", for_style)):
        if len(some) > 1:
            raise CraftError(
                f"{name} got {len(some)} encoders",
                "One encoder looks at all pictures, since scores of two cannot be compared",
                f"Connect a single encoder to {name}",
            )
    content, style = (
        one if hasattr(one, "features") else VisionEncoder(one, crop)
        for one in (given[0], (for_style or given)[0])
    )
    return {"content": content, "style": style}


@dataclass(frozen=True)
class VisionEncoder:
    """A PictureEncoder.

    clip_vision: what Load CLIP Vision gives. crop: as in CLIP Vision Encode.
    """

    clip_vision: Any
    crop: str = "center"

    @property
    def name(self) -> str:
        """The network by class, size and weights, since the host does not keep a file's name."""
        config, kind = self.clip_vision.config, self.clip_vision.model_type
        digest = weights_digest(self.clip_vision.get_sd())
        return (
            f"{FAMILIES.get(kind, kind)} ({config['num_hidden_layers']} layers of width "
            f"{config['hidden_size']}, {self._feature()}, weights {digest})"
        )

    @property
    def preprocessing(self) -> str:
        size = self.clip_vision.image_size
        if size <= 0:
            return f"resized to at most {self.clip_vision.config['num_patches']} patches"
        cropped = self.crop == "center"
        return f"{size} x {size}, " + ("cropped in the middle" if cropped else "squeezed")

    @property
    def projection(self) -> int | None:
        """Width of the space that pictures share with texts; None for all but CLIP's projection."""
        if self.clip_vision.model_type != "clip_vision_model":
            return None
        return self.clip_vision.config.get("projection_dim")

    def features(self, pictures: Tensor) -> Tensor:
        """Pictures (B, h, w, 3) in [0, 1] -> (B, width).

        The network's own embedding of a picture. Of SigLIP the host leaves out the head that makes
        one, and gives every token: their mean is taken, and the name says so.
        """
        crop = self.crop == "center"
        found = [
            self.clip_vision.encode_image(some, crop=crop)["image_embeds"].float().cpu()
            for some in batches(pictures)
        ]
        embeds = torch.cat(found)
        return embeds.mean(1) if embeds.ndim == 3 else embeds

    def _feature(self) -> str:
        kind = self.clip_vision.model_type
        if kind in ("siglip_vision_model", "siglip2_vision_model"):
            return "mean of its tokens"
        if "projection_dim" in self.clip_vision.config:
            return "projected"
        return "class token"


def batches(pictures: Tensor) -> tuple[Tensor, ...]:
    """(B, h, w, 3) in parts that a card has room for beside a model."""
    height, width = pictures.shape[1:3]
    return pictures.split(max(1, min(_AT_ONCE, _PIXELS_AT_ONCE // (height * width))))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Eight digits that differ between files: of the first numbers of every tensor.

    In half precision, so that they are the same whatever precision the host loads a file in.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        first = weight.flatten()[:_FIRST].to("cpu", torch.float16)
        digest.update(name.encode() + first.numpy().tobytes())
    return digest.hexdigest()[:8]
