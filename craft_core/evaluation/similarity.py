"""How near pictures are to references: the mean cosine of their features.

DreamBooth (Ruiz 2023, arXiv 2208.12242), Sec. 4.1: CLIP-I and DINO are the average pairwise cosine
between the features of generated and of real pictures. Content similarity is this with references
of the content, style similarity with references of the style.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


def similarity(pictures: Tensor, references: Tensor) -> Tensor:
    """(B, width) features, (n, width) of the references -> (B,) mean cosines in [-1, 1].

    A feature of length zero has the cosine 0. Without references, or with another width:
    AssertionError.
    """
    assert pictures.ndim == references.ndim == 2 and len(references) > 0
    assert pictures.shape[1] == references.shape[1]
    cosines = normalize(pictures.float(), dim=1) @ normalize(references.float(), dim=1).T  # (B, n)
    return cosines.mean(1)
