"""The reference images of a pair set: any number of batches and sizes brought to one size.

CRAFT-LoRA (arXiv 2602.18936), Sec. 3.3.2: N content and M style reference images, each with an
optional caption.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.utils
import torch
from torch import Tensor

from ...craft_core.errors import CraftError

RESIZE_METHODS = ("lanczos", "bicubic", "bilinear", "area", "nearest-exact")
CROPS = ("center", "disabled")
_LONGEST = 100_000  # characters of a caption that a template makes
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class References:
    """images: (n, height, width, 3) in [0, 1]; captions: n texts, "" where there is none."""

    images: Tensor
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.images.shape[1], self.images.shape[2]

    def image(self, index: int) -> Tensor:
        """(1, height, width, 3), a view"""
        return self.images[index : index + 1]


@dataclass(frozen=True)
class Resizing:
    """width, height in pixels, 0 for the first content image's; how to resize, whether to crop."""

    width: int = 0
    height: int = 0
    method: str = "lanczos"
    crop: str = "center"


def single_images(batches: Sequence[Tensor], side: str) -> list[Tensor]:
    """Batches (b, h, w, c) of any sizes -> single RGB images (1, h, w, 3); alpha is left out.

    Raises CraftError where there is no image at all, or one without three colours.
    """
    images = [batch[i : i + 1] for batch in batches for i in range(batch.shape[0])]
    if not images:
        raise CraftError(
            f"There is no {side} image",
            "Pairs need at least one content and one style image",
            f"Connect an image or a batch to {side}_images",
        )
    for image in images:
        if image.shape[-1] < 3 or 0 in image.shape:
            raise CraftError(
                f"A {side} image has the shape {tuple(image.shape)} (n, height, width, colours)",
                "Pairs are built from images of three colours, or four with alpha",
                "Convert it to RGB first",
            )
    return [image[..., :3] for image in images]


def captions_of(texts: Sequence[str], count: int, side: str) -> tuple[str, ...]:
    """One caption an image: a list of texts, or one text with a caption a line.

    texts: what the socket delivered; an empty text stands for no captions at all. Spaces around
    a caption and empty lines around a text do not count.
    Raises CraftError unless there are none or `count` of them.
    """
    lines = list(texts) if len(texts) > 1 else "".join(texts).strip().split("\n")
    if not any(line.strip() for line in lines):
        return ("",) * count
    if len(lines) != count:
        raise CraftError(
            f"There are {len(lines)} {side} captions for {count} {side} images",
            "Captions are left empty, or one line for each image",
            f"Write {count} lines into {side}_captions, in the order of the images",
        )
    return tuple(line.strip() for line in lines)


def pair_caption(template: str, content: str, style: str) -> str:
    """The template with both captions put in; where one is empty, the other alone.

    CraftError where that is very long: each field repeats a whole caption.
    """
    if not content or not style:
        return content or style
    fields = {"content": content, "style": style}
    length = len(template) + sum(len(fields[name]) for name in _FIELD.findall(template))
    if length > _LONGEST:
        raise CraftError(
            f"The caption template makes a caption of {length} characters",
            f"A caption has up to {_LONGEST}",
            "Shorten the template or the captions",
        )
    return _FIELD.sub(lambda found: fields[found.group(1)], template).strip()


def check_template(template: str) -> None:
    """Raise CraftError where a template names a field other than {content} and {style}."""
    unknown = sorted(set(_FIELD.findall(template)) - {"content", "style"})
    if unknown:
        raise CraftError(
            f"The caption template has {', '.join('{' + name + '}' for name in unknown)}",
            "It can hold {content} and {style}",
            "Correct the names in braces",
        )


def one_size(
    content: list[Tensor], style: list[Tensor], resizing: Resizing, multiple: int = 1
) -> tuple[Tensor, Tensor]:
    """Both sides at one size: (N, h, w, 3) and (M, h, w, 3); right-sized images stay bitwise.

    multiple: height and width are taken down to a multiple of it (what a VAE needs).
    Raises CraftError where nothing is left.
    """
    height = (resizing.height or content[0].shape[1]) // multiple * multiple
    width = (resizing.width or content[0].shape[2]) // multiple * multiple
    if not height or not width:
        raise CraftError(
            f"The images would be {width} x {height}",
            f"Each side must be at least {multiple} pixels",
            "Set a larger width and height",
        )
    fitted = ([_resized(image, height, width, resizing) for image in s] for s in (content, style))
    return tuple(torch.cat(side) for side in fitted)


def _resized(image: Tensor, height: int, width: int, resizing: Resizing) -> Tensor:
    if image.shape[1:3] == (height, width):
        return image
    moved = image.movedim(-1, 1)
    moved = comfy.utils.common_upscale(moved, width, height, resizing.method, resizing.crop)
    return moved.movedim(1, -1)
