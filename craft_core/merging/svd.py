"""SVD merge: the plain weighted sum, to be cut to the rank the user asks for.

The best approximation of the direct merge at that rank (Eckart and Young 1936). At rank 0, or at
the sum of the ranks and above, it is the direct merge itself.
"""

from __future__ import annotations

from ..lora.factors import combine
from ..types import Factors
from .methods import MERGES, MergeTraits, Updates


@MERGES.register("SVD merge", traits=MergeTraits(exact=True))
def svd(updates: Updates) -> Factors:
    """The sum of the LoRAs, cut to the chosen rank with the least possible error."""
    return combine(updates.factors)
