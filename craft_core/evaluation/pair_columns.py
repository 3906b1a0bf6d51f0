"""Every score of pictures that were made from one content and one style, picture by picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..types import Role
from .harmonic_mean import harmonic_mean
from .leakage import leakage
from .similarity import similarity

HARMONIC = "harmonic mean"


@dataclass(frozen=True)
class RoleFeatures:
    """What one role's encoder makes of pictures and references.

    pictures: (B, width). references: (n, width), of this role, if it has any. other: (m, width),
    the other role's references by this role's encoder; None where both roles have the same
    encoder, or where the other role has no reference.
    """

    pictures: Tensor
    references: Tensor | None = None
    other: Tensor | None = None


def pair_columns(roles: Mapping[Role, RoleFeatures]) -> dict[str, Tensor]:
    """{measure: (B,)}: `content` and `style`, each with references; with both their harmonic mean;
    `content leak` and `style leak`, each where its encoder has seen the other role's references.
    """
    columns: dict[str, Tensor] = {
        role: similarity(one.pictures, one.references)
        for role, one in roles.items()
        if one.references is not None
    }
    if len(columns) > 1:
        columns[HARMONIC] = harmonic_mean(tuple(columns.values()))
    for role, one in roles.items():
        if one.other is not None:
            columns[f"{role} leak"] = leakage(one.pictures, one.other)
    return columns
