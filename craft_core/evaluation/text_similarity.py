"""How near pictures are to their prompts: the cosine of picture and text features.

DreamBooth (Ruiz 2023, arXiv 2208.12242), Sec. 4.1: CLIP-T, the cosine between the CLIP features of
prompt and picture. The prompt is scored as the text encoder of the sampler saw it, without its
<c> and <s> (CRAFT-LoRA 2602.18936, Eq. 6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn.functional import normalize

from ..routing.markers import parse


def text_similarity(
    pictures: Tensor, prompts: Sequence[str], encode: Callable[[Sequence[str]], Tensor]
) -> Tensor:
    """(B, width) features and their prompts -> (B,) cosines in [-1, 1].

    prompts: one a picture, or one for all. encode: texts -> (n, width), in the pictures' own space.
    CraftError where a prompt's markers cannot be read; AssertionError where the numbers or the
    widths do not agree.
    """
    assert len(prompts) in (1, len(pictures))
    texts = encode([parse(prompt).clean for prompt in prompts])
    assert texts.shape == (len(prompts), pictures.shape[1])
    return (normalize(pictures.float(), dim=1) * normalize(texts.float(), dim=1)).sum(1)
