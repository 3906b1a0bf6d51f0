"""Picture after picture scored against one content's and one style's references, seen only once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.evaluation import PictureEncoder, similarity
from ...craft_core.types import Role
from .scoring import ROLES, features_of


@dataclass(frozen=True)
class PairScorer:
    """encoders: of both roles. references: (n, width) features by role. pictures: IMAGE batches
    that they are of, by role."""

    encoders: dict[Role, PictureEncoder]
    references: dict[Role, Tensor]
    pictures: dict[Role, tuple[Tensor, ...]]

    @staticmethod
    def of(
        references: Mapping[Role, Sequence[Tensor]], encoders: Mapping[Role, PictureEncoder]
    ) -> PairScorer:
        """references: IMAGE batches by role. CraftError where a role has none, or one that is not
        finite."""
        for role in ROLES:
            if not any(len(batch) for batch in references[role]):
                raise CraftError(
                    f"There is no {role}_reference",
                    "A setting is good where its pictures are near to both references",
                    "Connect one picture of each or more",
                )
        seen = {
            role: features_of(encoders[role], references[role], f"{role}_reference")
            for role in ROLES
        }
        pictures = {role: tuple(references[role]) for role in ROLES}
        return PairScorer(dict(encoders), seen, pictures)

    def scores(self, pictures: Tensor) -> tuple[float, float]:
        """(content, style) of pictures (B, h, w, 3), the mean over them, as score_pictures has it.

        0 for a role whose encoder makes no finite features of them: settings that break a picture
        are bad ones, and no fault of a search.
        """
        found = []
        for role in ROLES:
            features = self.encoders[role].features(pictures)
            score = similarity(features, self.references[role]).mean()
            found.append(float(torch.nan_to_num(score, 0.0)) if features.isfinite().all() else 0.0)
        return found[0], found[1]
