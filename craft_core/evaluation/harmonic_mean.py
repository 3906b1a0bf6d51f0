"""One number for content and style together: their harmonic mean, which the worse one decides.

NP-LoRA (Chen 2025, arXiv 2511.11051v1), Sec. V-C: S_harm = 4 / sum_i (1 / S_i) over the content
and style similarities of CLIP and of DINO. Here over any number of scores, picture by picture.
The paper has no rule for a cosine of zero or less: the mean is 0 there, its limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def harmonic_mean(scores: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Scores of one shape -> their harmonic mean, of that shape; 0 where any score is <= 0.

    It lies between the smallest score and the arithmetic mean. weights: how much each score counts,
    sum(w) / sum(w / S); a score of weight 0 does not count at all. No score, or no weight above 0:
    AssertionError.
    """
    shares = [1.0] * len(scores) if weights is None else weights
    counted = [(score, share) for score, share in zip(scores, shares, strict=True) if share > 0]
    assert counted and min(shares) >= 0
    each = torch.stack([score for score, _ in counted])
    share = torch.tensor([share for _, share in counted]).to(each)
    share = share.reshape(-1, *(1,) * (each.ndim - 1))
    return torch.where((each > 0).all(0), share.sum() / (share / each).sum(0), 0.0)
