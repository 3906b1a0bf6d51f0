"""How far a score has come from the model without LoRAs to the true picture, where there is one.

Ours. A cosine of 0.7 says little: pictures of anything may have 0.6, and the truth itself 0.75.
"""

from __future__ import annotations

import torch
from torch import Tensor


def share_of_way(score: Tensor, without: Tensor, truth: Tensor) -> Tensor:
    """(score - without) / (truth - without): 0 as without LoRAs, 1 as the truth.

    score, without, truth: means of the same measure, in shapes that broadcast; of single pictures
    the ratio is noise. nan where truth and `without` are equal, as there is no way to go.
    """
    way = truth - without
    return torch.where(way == 0, torch.nan, (score - without) / way)
