"""Images and captions, as the page's nodes give them, into pictures a training can learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.routing.markers import MarkedPrompt, has_many_markers, parse
from ...craft_core.training import Condition, Dataset, Example
from ...craft_core.training.sizes import AREA
from .run import require_name

MOST_CAPTIONS = 50_000
MOST_MARKERS_OF_ALL = 100_000


class ExampleEncoder:
    """The VAE, the text encoder and the latent scale that belong to one MODEL."""

    def __init__(self, model: Any, clip: Any, vae: Any) -> None:
        for name, given in (("clip", clip), ("vae", vae)):
            if given is None:
                raise CraftError(
                    f"{name} is empty: this checkpoint has none",
                    "Training encodes pictures with a VAE and captions with a CLIP",
                    f"Load one that fits the model and connect it to {name}",
                )
        self._model, self._clip, self._vae = model, clip, vae
        self._conditions: dict[str, Condition] = {}

    def condition(self, text: str) -> Condition:
        """The CONDITIONING of a text without markers, free of inference mode, made once a text."""
        if text not in self._conditions:
            given = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(text))
            with torch.inference_mode(False):
                self._conditions[text] = [[_free(tensor), _free(rest)] for tensor, rest in given]
        return self._conditions[text]

    def latent(self, image: Tensor, name: str) -> Tensor:
        """(1, height, width, 3) -> (C, h, w) on the model's scale, float32 on the CPU."""
        _require_size(image, self._vae, name)
        encoded = self._vae.encode(image)[0]
        with torch.inference_mode(False):
            own = encoded.detach().float().cpu().clone()
            return self._model.model.process_latent_in(own[None])[0].clone()


def caption_lines(texts: Sequence[str]) -> list[str]:
    """A list of texts, or one text with a caption a line, as a list of captions; never empty.

    CraftError for more captions, or more markers in them, than any training reads.
    """
    lines = list(texts) if len(texts) > 1 else "".join(texts).strip().splitlines() or [""]
    if len(lines) > MOST_CAPTIONS:
        raise CraftError(
            f"There are {len(lines)} captions",
            f"A training reads up to {MOST_CAPTIONS}",
            "Write one for each image, or one for all",
        )
    if has_many_markers(lines, MOST_MARKERS_OF_ALL):
        raise CraftError(
            f"The captions have more than {MOST_MARKERS_OF_ALL} markers",
            "Markers say which words are content and which are style",
            "Mark fewer phrases",
        )
    return lines


def marked_captions(texts: Sequence[str], count: int, what: str) -> list[MarkedPrompt]:
    """A caption an image, markers read: a list of texts, or one text with a caption a line.

    One caption serves all images. CraftError for another number of captions, or an empty one.
    """
    lines = caption_lines(texts)
    if len(lines) == 1:
        lines *= count
    if len(lines) != count:
        raise CraftError(
            f"There are {len(lines)} {what} captions for {count} {what} images",
            "There is one caption for each image, or one for all",
            f"Write {count} lines, in the order of the images",
        )
    read = {line: parse(line) for line in dict.fromkeys(lines)}
    marked = [read[line] for line in lines]
    empty = [number for number, one in enumerate(marked, start=1) if not one.clean.strip()]
    if empty:
        raise CraftError(
            f"The caption of {what} image {empty[0]} is empty",
            "A picture is learned under its caption, e.g. 'a photo of sks dog'",
            "Write what the image shows",
        )
    return marked


def check_texts(save_name: str | None, captions: Mapping[str, Sequence[str | None]]) -> bool | str:
    """True, or what is wrong already before anything runs. None: another node will give it."""
    try:
        if save_name is not None:
            require_name(save_name)
        for what, texts in captions.items():
            given = [text for text in texts if text is not None]
            if given and len(given) == len(texts):
                marked_captions(given, len(caption_lines(given)), what)
    except CraftError as error:
        return str(error)
    return True


def training_images(batches: Sequence[Tensor], what: str) -> list[Tensor]:
    """IMAGE batches (b, h, w, c) of any sizes -> single RGB images (1, h, w, 3)."""
    images = [batch[i : i + 1, ..., :3] for batch in batches for i in range(len(batch))]
    if not images:
        raise CraftError(
            f"There is no {what} image",
            "Training needs at least one",
            "Connect Load Image, Load Image-Text Dataset, or the Pair Builder",
        )
    for number, image in enumerate(images, start=1):
        if image.shape[-1] != 3 or not bool(torch.isfinite(image).all()):
            raise CraftError(
                f"The {what} image {number} has the shape {tuple(image.shape)} or holds "
                "values that are not finite",
                "An image has three colours and finite values",
                "Convert or load it again",
            )
    return images


def dataset(
    encoder: ExampleEncoder,
    batches: Sequence[Tensor],
    texts: Sequence[str],
    what: str = "training",
    tick: Callable[[], None] = lambda: None,
    mirror: bool = False,
) -> Dataset:
    """Captioned pictures, each encoded once, and the empty prompt. what: for messages. mirror: with
    their mirrored latents."""
    images = training_images(batches, what)
    captions = marked_captions(texts, len(images), what)
    encoded: dict[tuple, tuple[Tensor, Tensor | None]] = {}
    examples = []
    for number, (image, caption) in enumerate(zip(images, captions, strict=True), start=1):
        tick()
        name = f"{what} image {number}"
        # The Pair Builder repeats a reference in many pairs; a crop shares its picture's memory.
        key = image.data_ptr(), image.shape, image.stride()
        if key not in encoded:
            mirrored = encoder.latent(image.flip(2), name) if mirror else None
            encoded[key] = encoder.latent(image, name), mirrored
        condition = encoder.condition(caption.clean)
        latent, mirrored = encoded[key]
        examples.append(Example(latent, condition, name, caption.clean, mirrored))
    return Dataset(tuple(examples), encoder.condition(""))


def _require_size(image: Tensor, vae: Any, name: str) -> None:
    height, width = image.shape[1:3]
    factor = int(vae.spacial_compression_encode())
    fitting = height // factor * factor, width // factor * factor
    if 0 in fitting or fitting != (height, width):
        possible = f"sides that are multiples of {factor}"
        if 0 not in fitting:
            possible += f", such as {fitting[1]} x {fitting[0]}"
        raise CraftError(
            f"The {name} is {width} x {height}",
            f"This model's VAE takes {possible}",
            f"Set resize to {AREA}, which makes any picture fit, or size to such a multiple",
        )


def _free(value: Any) -> Any:
    """A copy whose tensors autograd accepts."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _free(one) for key, one in value.items()}
    return value
