"""KnOTS: a common basis for all updates by one SVD, then a merge of their coordinates in it.

Model Merging with SVD to Tie the KnOTS (Stoica et al. 2024), arXiv:2410.19735, Sec. 4:
[dW_1 .. dW_k] = U S [V_1 .. V_k]^T, and dW = U S V^T with V merged from the V_i. On dW, not on up
and down apart. dW is never formed: the SVD is that of small matrices between the factors' own
orthonormal bases, and the result has at most the sum of the ranks.

The release merges the S V_i instead, which matters to the trim alone: entries then count by what
they do to dW. Both are here. Departure: the trim of `ties` is per layer, as in TIES here.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from ..papers import KNOTS
from ..registry import Knob
from ..types import Factors
from .methods import MERGES, MergeTraits, Updates
from .ties import Combine, Density, Scaling, elect, threshold

_NOTHING = 1e-12  # singular values below this share of the first are rounding


@MERGES.register("KnOTS", paper=KNOTS, traits=MergeTraits(exact=True))
def knots(
    updates: Updates,
    *,
    merge: Annotated[
        str, Knob("How the coordinates are merged: by TIES, or plainly.", choices=("ties", "plain"))
    ] = "ties",
    density: Density = 0.2,
    combine: Combine = "mean",
    coordinates: Annotated[
        str, Knob("What TIES trims. paper: V, every direction alike. released: S V, strong "
                  "directions first.", choices=("paper", "released")),
    ] = "paper",
    scaling: Scaling = 1.0,
) -> Factors:  # fmt: skip
    """Aligns the LoRAs in a common basis by SVD, then merges their coordinates by TIES."""
    basis, values, parts = aligned(updates)
    weight = values[:, None]
    if merge == "plain":
        merged = weight * (parts.mean(dim=0) if combine == "mean" else parts.sum(dim=0))
    elif coordinates == "paper":
        merged = weight * elect(parts, combine, [threshold(one, density) for one in parts])
    else:
        parts = weight * parts
        merged = elect(parts, combine, [threshold(one, density) for one in parts])
    down = merged.reshape(-1, *updates.factors[0].down.shape[1:])
    return Factors(down.float(), basis.float(), scaling)


def aligned(updates: Updates) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, R), S (R), V^T (branches, R, n * kernel) in float64, all on the factors' device."""
    ups = torch.cat([one.scale * one.up.double() for one in updates.factors], dim=1)
    left, mixed = torch.linalg.qr(ups)  # (out, q), (q, sum of ranks)
    rights, blocks, start = [], [], 0
    for one in updates.factors:
        right, triangle = torch.linalg.qr(one.flat_down.double().T)  # (n * kernel, r)
        blocks.append(mixed[:, start : start + one.rank] @ triangle.T)  # (q, r)
        rights.append(right)
        start += one.rank
    inner, values, joint = torch.linalg.svd(torch.cat(blocks, dim=1), full_matrices=False)
    rank = max(1, int((values > _NOTHING * values[0]).sum()))
    parts = joint[:rank].split([block.shape[1] for block in blocks], dim=1)
    coordinates = [part @ right.T for part, right in zip(parts, rights, strict=True)]
    return left @ inner[:, :rank], values[:rank], torch.stack(coordinates)
