"""Likeness of pictures to their prompts: CLIP-T, where both towers are of one CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.evaluation import PictureEncoder, TextEncoder, text_similarity
from ...craft_core.routing.markers import parse
from .vision import VisionEncoder

TEXT = "text"  # the measure
SCALE = (
    "text has a scale of its own: compare it with text of the same encoders and prompts, not with "
    "content or style"
)


@dataclass(frozen=True)
class PromptLook:
    """What looks at prompts and pictures. prompts: one for all, one a batch or one a picture."""

    text: TextEncoder
    pictures: PictureEncoder
    prompts: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.text.name} for prompts, {self.pictures.name} for pictures"

    @property
    def preprocessing(self) -> str:
        return f"{self.pictures.preprocessing}; prompts without markers, {self.text.preprocessing}"

    def scores(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B, width) features of the pictures, a prompt for each -> (B,) cosines.

        CraftError for a prompt whose features are not finite.
        """
        found = text_similarity(features, prompts, self.text.features)
        broken = (~found.isfinite()).nonzero().flatten().tolist()
        if broken:
            raise CraftError(
                f"The prompt of picture {broken[0] + 1} has no finite features",
                "A text encoder makes numbers of words, and of embeddings that a prompt names",
                "Look at the embeddings in the prompt, and at the text encoder's file",
            )
        return found

    def notes(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """Who looked and how, and what else a reader of these scores must know."""
        made_by = f"text is scored by {self.name}, pictures {self.preprocessing}"
        cut = sum(self.text.cuts(parse(prompt).clean) for prompt in dict.fromkeys(prompts))
        if not cut:
            return made_by, SCALE
        long = f"Longer than {self.text.preprocessing}, which alone count: {cut} prompts"
        return made_by, SCALE, long


def prompt_look(
    text: TextEncoder | None, prompts: Sequence[str], pictures: PictureEncoder
) -> PromptLook | None:
    """None where neither a text encoder nor a prompt is given.

    CraftError for one without the other, for an empty prompt, and for a picture encoder that is not
    of a CLIP of the text encoder's width.
    """
    if text is None and not prompts:
        return None
    if text is None or not prompts:
        given, missing = ("prompt", "text_encoder") if prompts else ("text_encoder", "prompt")
        raise CraftError(
            f"{given} is connected, and {missing} is not",
            "Likeness to the prompt takes both: the words, and what makes numbers of them",
            f"Connect {missing}, or disconnect {given}",
        )
    for place, prompt in enumerate(prompts):
        if not parse(prompt).clean.strip():
            raise CraftError(
                f"Prompt {place + 1} is empty",
                "Likeness to the prompt is likeness to its words",
                "Write the prompt, or disconnect prompt and text_encoder",
            )
    width = pictures.projection if isinstance(pictures, VisionEncoder) else None
    if width is None:
        raise CraftError(
            f"Prompts cannot be compared with pictures by {pictures.name}",
            "CLIP alone has texts and pictures in one space, by the projections of both towers",
            "Connect to clip_vision, from Load CLIP Vision, the CLIP that text_encoder belongs to; "
            "another encoder may look at style",
        )
    if width != text.width:
        raise CraftError(
            f"Vectors of texts have the width {text.width}, those of pictures {width}",
            "Both must be of one CLIP, so that they have one width",
            "Choose text_encoder and clip_vision of the same CLIP",
        )
    return PromptLook(text, pictures, tuple(prompts))
