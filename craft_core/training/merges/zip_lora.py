"""ZipLoRA: a learnt coefficient for each column of every LoRA's update, so that columns of two
LoRAs do not meet.

ZipLoRA (Shah et al. 2023), arXiv:2311.13600: dW = sum_j dW_j diag(m_j), with

    L = sum_j |(D + L_m)(x_j, p_j) - (D + L_j)(x_j, p_j)| + lambda sum_{i<j} |m_i . m_j|

from m = 1. The paper's first terms are norms without a square. Ours are the mean squared difference
of the network's own outputs, as the known reimplementation has it, which weighs a picture of any
size alike. The products are means over columns and over the layers that both LoRAs adapt, so that
lambda means the same on every model; the paper has a sum, and speaks of cosine similarity too,
which is the other `similarity`. More than two LoRAs: every two of them are kept apart. A
convolution's columns are those of its weight as a matrix (out, n * kernel); slices of a fused layer
share theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from ...papers import ZIP_LORA
from ...registry import Knob
from ...types import Factors
from ..data import Moves
from ..denoiser import Denoiser, Edit
from ..loop import Pace, Training
from ..losses import Draw
from ..merge import (
    MERGE_SLOTS,
    Merging,
    answer,
    drawn,
    frozen_updates,
    output_error,
    summed_edit,
    write_merged,
)
from ..registry import DTYPES, LEARNED, Accumulate, Mirror, SaveAs, Shift
from ..slots import Needs


@LEARNED.register("ZipLoRA", paper=ZIP_LORA, traits=Needs(MERGE_SLOTS))
def zip_lora(
    denoiser: Denoiser,
    merging: Merging,
    base_model: str = "",
    *,
    steps: Annotated[int, Knob("Training steps. The paper: 100.", 1, 1_000_000, 1)] = 100,
    learning_rate: Annotated[
        float, Knob("Adam's rate, constant. The paper: 0.01.", 1e-7, 1.0, 1e-6)
    ] = 0.01,
    batch_size: Annotated[int, Knob("Pictures a step, of each LoRA.", 1, 256, 1)] = 1,
    accumulate: Accumulate = 1,
    shift: Shift = 0,
    mirror: Mirror = False,
    similarity_weight: Annotated[
        float, Knob("lambda: weight of the term that keeps the LoRAs' columns apart. The paper "
                    "has 0.01 of a sum over columns and layers; here it is of a mean.",
                    0.0, 10.0, 0.001),
    ] = 0.01,
    similarity: Annotated[
        str, Knob("dot: the product of the paper's equation, as a mean; it also shrinks the "
                  "coefficients. cosine: their angle alone.",
                  choices=("dot", "cosine"), advanced=True),
    ] = "dot",
    seed: Annotated[int, Knob("Same seed, same merge.", 0, 2**64 - 1, 1)] = 0,
    save_as: SaveAs = "fp16",
) -> Training:  # fmt: skip
    """Learn a coefficient for each column of each LoRA, so that they disturb each other less."""
    recipe = ZipRecipe(
        denoiser, merging, base_model=base_model, batch_size=batch_size,
        moves=Moves(shift, mirror), similarity_weight=similarity_weight, similarity=similarity,
        dtype=DTYPES[save_as],
    )  # fmt: skip
    pace = Pace(
        steps, learning_rate, min_rate=learning_rate, max_norm=0, accumulate=accumulate, seed=seed
    )
    return Training(recipe, pace)


class ZipRecipe:
    """masks[j]: layer -> (n,) or (n, *kernel), a coefficient for each column of part j's update."""

    def __init__(
        self,
        denoiser: Denoiser,
        merging: Merging,
        *,
        base_model: str,
        batch_size: int,
        moves: Moves,
        similarity_weight: float,
        similarity: str,
        dtype: torch.dtype,
    ) -> None:
        self.denoiser, self.merging, self.base_model = denoiser, merging, base_model
        self.batch_size, self.moves, self.dtype = batch_size, moves, dtype
        self.similarity_weight, self.similarity = similarity_weight, similarity
        self.updates = [frozen_updates(part, denoiser) for part in merging.parts]
        self.masks = [
            {path: torch.ones_like(one.down[0]).requires_grad_(True) for path, one in own.items()}
            for own in self.updates
        ]

    def parameters(self) -> Mapping[str, Tensor]:
        return {
            f"columns.{j}.{path}": mask
            for j, own in enumerate(self.masks) for path, mask in own.items()
        }  # fmt: skip

    def backward(self, draw: Draw, share: float) -> Mapping[str, float]:
        terms = {
            f"like {self.merging.name(j)}": self._alike(j, draw.generator(j), share)
            for j in range(len(self.updates))
        }
        loss = self.similarity_weight * self.columns_meet()
        if loss.requires_grad:  # not where no two LoRAs share a layer
            (share * loss).backward()
            terms["similarity"] = float(loss.detach())
        return terms

    def _alike(self, j: int, generator: torch.Generator, weight: float) -> float:
        """On part j's pictures the merged model is to do as the model with part j alone."""
        pictures = self.merging.parts[j].pictures
        ready = drawn(self.denoiser, pictures, self.batch_size, self.moves, generator)
        wanted = answer(self.denoiser, ready, self.updates[j])
        layers = dict.fromkeys(path for own in self.masks for path in own)
        with self.denoiser.edited({path: self._edit(path) for path in layers}):
            denoised = self.denoiser.denoise(ready.x, ready.sigma, ready.conditions)
            loss = output_error(self.denoiser, denoised, wanted, ready.sigma).mean()
            (weight * loss).backward()  # inside: checkpointed blocks run again here
        return float(loss.detach())

    def _edit(self, path: str) -> Edit:
        return summed_edit(lambda: self.merged(path))

    def merged(self, path: str) -> list[Factors]:
        """The layer's updates as they are now, coefficients folded into down."""
        return [
            Factors(own[path].down * masks[path], own[path].up, own[path].scale)
            for own, masks in zip(self.updates, self.masks, strict=True) if path in own
        ]  # fmt: skip

    def columns_meet(self) -> Tensor:
        """() sum over pairs of LoRAs of the mean over shared layers of |m_i . m_j|, 0 for none."""
        total = torch.zeros((), device=self.denoiser.device)
        for first, second in combinations(self.masks, 2):
            shared = [path for path in first if path in second]
            met = [self._product(first[path], second[path]) for path in shared]
            total = total + torch.stack(met).mean() if met else total
        return total

    def _product(self, first: Tensor, second: Tensor) -> Tensor:
        dot = (first * second).sum().abs()
        if self.similarity == "cosine":
            return dot / (first.norm() * second.norm()).clamp_min(1e-12)
        return dot / first.numel()

    def settings(self) -> Mapping[str, str]:
        return {
            "recipe": "zip_lora",
            **self.merging.settings(),
            "base_model": self.base_model,
            "batch_size": str(self.batch_size),
            "shift": str(self.moves.shift),
            "mirror": str(self.moves.mirror),
            "similarity_weight": f"{self.similarity_weight:g}",
            "similarity": self.similarity,
        }

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """An ordinary LoRA of all parts side by side, coefficients folded in."""
        layers = dict.fromkeys(name for own in self.masks for name in own)
        merged = {name: self.merged(name) for name in layers}
        model = self.denoiser.layers
        write_merged(path, self.merging, merged, self.dtype, metadata, model=model)
