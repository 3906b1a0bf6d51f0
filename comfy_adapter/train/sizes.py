"""Pictures are made to fit the size that a model was made for, before anything else reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...craft_core.errors import listed
from ...craft_core.registry import Method
from ...craft_core.training.sizes import AREA, USUAL, Fit, Fitted, Size, fitted
from ...craft_core.training.slots import PictureSlot
from ..model.file_layers import class_latent
from .data import training_images
from .train import CANCEL, FilledSlots, ModelParts

_SLOW = 2  # times the pixels that the model was made for, from which a warning is due
_WHITE = 1.0


def native_size(model: Any) -> Size | None:
    """The width and height that a MODEL was made for; None where that is not known."""
    latent = class_latent(model.model.model_config)
    return None if latent is None else latent[1:]


def fit_pictures(
    source: ModelParts, method: Method, filled: FilledSlots, warn: Callable[[str], None]
) -> tuple[FilledSlots, str]:
    """(the slots with pictures that fit, a line of the report). warn: told of pictures that are
    learned at a size at which training takes far longer."""
    given = [sum(len(batch) for batch in own.images) for own in filled.pictures.values()]
    if source.vae is None or not all(given):
        return filled, ""  # an error of whoever reads them, who may have worse to tell
    native = native_size(source.model)
    made_for = native or USUAL
    size = filled.fit.size or made_for
    fitting = _Fitting(filled.fit, size, int(source.vae.spacial_compression_encode()))
    nouns = {slot.key: slot.noun for slot in method.traits.slots.of(PictureSlot)}
    pictures = {
        key: replace(own, images=fitting.all(training_images(own.images, nouns[key])))
        for key, own in filled.pictures.items()
    }
    largest = max(fitting.seen.values(), key=_pixels)
    times = _pixels(largest) / _pixels(made_for)
    if times > _SLOW:
        warn(f"Pictures are learned at up to {_text(largest)}: {times:.0f} times the pixels of "
             f"{_text(made_for)}, and a step takes at least as many times longer. Set size to 0 "
             f"and resize to {AREA} to have them scaled")  # fmt: skip
    return replace(filled, pictures=pictures), f"{fitting.report()}. {_made_for(native)}"


class _Fitting:
    """Makes pictures fit, each once. seen: the sizes that came in, and what became of each."""

    def __init__(self, fit: Fit, size: Size, cell: int) -> None:
        self._fit, self._size, self._cell = fit, size, cell
        self._made: dict[tuple, Tensor] = {}
        self.seen: dict[Size, Size] = {}

    def all(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [self._one(image) for image in images]

    def _one(self, image: Tensor) -> Tensor:
        """(1, height, width, 3) -> the same of the size that fits."""
        CANCEL()
        size = (image.shape[2], image.shape[1])
        how = fitted(size, self._fit.resize, self._size, self._cell)
        self.seen[size] = how.size if how else size
        if how is None:
            return image
        key = image.data_ptr(), image.shape, image.stride()  # as dataset tells pictures apart
        if key not in self._made:
            self._made[key] = _resized(image, how)
        return self._made[key]

    def report(self) -> str:
        scaled = [f"{_text(a)} -> {_text(b)}" for a, b in self.seen.items() if a != b]
        kept = [_text(a) for a, b in self.seen.items() if a == b]
        lines = [f"resized ({self._fit.resize}) {listed(scaled)}"] * bool(scaled)
        lines += [f"as they are {listed(kept)}"] * bool(kept)
        return f"Pictures: {'; '.join(lines)}"


def _resized(image: Tensor, how: Fitted) -> Tensor:
    channels = image.movedim(-1, 1)
    crop = "center" if how.crop else "disabled"
    inner = comfy.utils.common_upscale(channels, *how.inner, "lanczos", crop).movedim(1, -1)
    if how.inner == how.size:
        return inner
    width, height = how.size
    left, top = ((whole - part) // 2 for whole, part in zip(how.size, how.inner, strict=True))
    made = torch.full((1, height, width, 3), _WHITE, dtype=inner.dtype, device=inner.device)
    made[:, top : top + how.inner[1], left : left + how.inner[0]] = inner
    return made


def _made_for(native: Size | None) -> str:
    if native is None:
        return f"The size that this model was made for is not known; {_text(USUAL)} stands for it"
    return f"The model was made for {_text(native)}"


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
