"""How much content and style disturb each other, by both definitions of CRAFT-LoRA.

CRAFT-LoRA (2026, arXiv 2602.18936), Table 6b and App. B.2, defines the score twice in one breath:
as the relative loss of each similarity when content and style act together, and as the product of
the picture's similarities to both references. The paper calls lower better; that holds for the
loss alone, since the product rises as a picture comes nearer to both references.
"""

from __future__ import annotations

from torch import Tensor


def relative_drop(
    content: Tensor, style: Tensor, content_alone: Tensor, style_alone: Tensor
) -> Tensor:
    """1 - fused / alone, the mean of both roles; lower is better, 0 where nothing was lost.

    Similarities of fused pictures and of each LoRA by itself, in shapes that broadcast. Not finite
    where a LoRA alone has the similarity 0.
    """
    return ((1 - content / content_alone) + (1 - style / style_alone)) / 2


def product_influence(content: Tensor, style: Tensor) -> Tensor:
    """content x style of fused pictures; higher is nearer to both references."""
    return content * style
