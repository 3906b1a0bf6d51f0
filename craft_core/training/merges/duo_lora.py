"""DuoLoRA: masks over the ranks of content and style LoRA, learnt with a layer prior and cycles.

DuoLoRA (Roy et al. 2025), arXiv:2504.13206. ZipRank, Sec. 3.2: dW = B diag(m) A, a mask m in R^r
for each LoRA and layer. L = Constyle + lambda_layer_prior * prior + lambda_cycle * cycles:

- Constyle, Sec. 3.4: |(D + L_m)(I_c, p_c) - (D + L_c)(I_c, p_c)|, and the same for style. Printed
  without a square and so taken; here over the square root of its length, for a picture of any size.
- Layer prior, Eq. 1 and Alg. 1: |m_c|_1 + lambda max(0, |m_s|_* - |m_c|_*) where content dominates,
  reversed where style does; |diag(m)|_* is sum |m_i|. Each norm is divided by its own mask's rank,
  else the hinge would compare ranks where the LoRAs' differ; with equal ranks that is Eq. 1 over
  the rank. Mean over layers. The release takes the singular value of a mask as a column, which is
  its L2 norm, has no maximum, and knows rank 64 alone: prior = "released". An L2 norm grows with
  the root of the rank, so ours compares root mean squares; with equal ranks that, too, is the
  release over the rank.
- Cycles, Sec. 3.4: I_c is noised and denoised by L_s with the fused prompt (I_cs), noised again and
  denoised by L_s with p_c (I_csc), which is to be what L_c makes of I_c (I_cc); and the reverse.
  Printed are the LoRAs themselves, of which no mask would learn: ours carry their masks in the
  cycle, while I_cc and I_ss are of the LoRAs as they came. Each denoising is one prediction at the
  drawn noise level.
- Initialisation, Sec. 3.3.2: the thresholds are shares of ones, T_content for the dominant LoRA's
  mask and T_style for the other's, drawn by one random vector; equal shares are all ones.
  Half a rank is rounded in the dominant LoRA's favour, and every mask starts with a one.

The text multiplies all of Constyle by lambda_cycle, but in its ablation lambda_cycle = 0 still has
learnt the ZipRank row of its main table: distillation_weight is 1, and 0.01 is as printed.
Multi-concept, Sec. 3.5: a pair <C_i, S> each with masks of its own, and the mean of the merged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from ...errors import CraftError
from ...papers import DUO_LORA
from ...registry import Knob
from ...types import ROLES, Branch, Factors
from ..data import Moves
from ..denoiser import Denoiser, Edit
from ..loop import Pace, Training
from ..losses import Draw, Noised
from ..merge import (
    MERGE_SLOTS,
    Merging,
    Prompt,
    Update,
    answer,
    drawn,
    frozen_updates,
    summed_edit,
    write_merged,
)
from ..registry import DTYPES, LEARNED, Accumulate, Mirror, SaveAs, Shift
from ..slots import Needs

Masks = Mapping[str, Tensor]  # layer -> (rank,)


def require_prompt(knobs: Mapping[str, Any], given: bool) -> None:
    """CraftError for cycles without a fused prompt."""
    if knobs["cycle_weight"] and not given:
        raise CraftError(
            f"cycle_weight = {knobs['cycle_weight']:g} without a fused prompt",
            "The cycles need the prompt of the content in the style: 'a sks dog in zwx style'",
            "Write it into fused_prompt, or set cycle_weight to 0",
        )


def require_roles(branches: Sequence[Branch], metadata: Sequence[Mapping[str, str]]) -> None:
    """CraftError unless there is one style, and a content."""
    contents, styles = (sum(one.role == role for one in branches) for role in ROLES)
    if not contents or styles != 1:
        raise CraftError(
            f"DuoLoRA was given {contents} content and {styles} style LoRAs",
            "It merges one style with one content or several",
            "Choose such LoRAs and roles, or ZipLoRA, which takes any",
        )


NEEDS = Needs(MERGE_SLOTS, require_prompt, require_roles)


@LEARNED.register("DuoLoRA", paper=DUO_LORA, traits=NEEDS)
def duo_lora(
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
    distillation_weight: Annotated[
        float, Knob("Weight of doing as each LoRA alone does. The paper's ablation: 1; its text: "
                    "0.01.", 0.0, 10.0, 0.01, advanced=True),
    ] = 1.0,
    layer_prior_weight: Annotated[
        float, Knob("lambda_layer_prior: weight of the prior that low resolutions are content's "
                    "and high ones style's. The paper has 0.1 of sums over ranks; here it is of "
                    "means.", 0.0, 10.0, 0.01),
    ] = 0.1,
    cycle_weight: Annotated[
        float, Knob("lambda_cycle: weight of content to style and back, and the reverse. The "
                    "paper: 0.01.", 0.0, 10.0, 0.01),
    ] = 0.01,
    prior: Annotated[
        str, Knob("paper: nuclear norms and a hinge. released: L2 norms without one, "
                  "compared as if both LoRAs had one rank.",
                  choices=("paper", "released"), advanced=True),
    ] = "paper",
    hinge_weight: Annotated[
        float, Knob("lambda inside the layer prior, which the paper does not give; above 1 it "
                    "outweighs the sparsity beside it.", 0.0, 100.0, 0.1, advanced=True),
    ] = 2.0,
    initialisation: Annotated[
        str, Knob("prior: masks start with more ones for the LoRA a layer belongs to. ones: all "
                  "start at 1, the plain merge.", choices=("prior", "ones")),
    ] = "prior",
    content_threshold: Annotated[
        float, Knob("T_content: share of ones of the content mask in content layers, and of the "
                    "style mask in style layers.", 0.0, 1.0, 0.05, advanced=True),
    ] = 0.75,
    style_threshold: Annotated[
        float, Knob("T_style: share of ones of the other mask there.", 0.0, 1.0, 0.05,
                    advanced=True),
    ] = 0.5,
    seed: Annotated[int, Knob("Same seed, same merge.", 0, 2**64 - 1, 1)] = 0,
    save_as: SaveAs = "fp16",
) -> Training:  # fmt: skip
    """Learn which ranks of content and style LoRA to keep in each layer."""
    parts = merging.parts
    require_roles([part.branch for part in parts], [part.metadata for part in parts])
    require_prompt({"cycle_weight": cycle_weight}, bool(merging.fused))
    weights = Weights(distillation_weight, layer_prior_weight, cycle_weight, hinge_weight)
    start = Start(initialisation == "prior", content_threshold, style_threshold, seed)
    recipe = DuoRecipe(
        denoiser, merging, weights, start, base_model=base_model, batch_size=batch_size,
        moves=Moves(shift, mirror), released=prior == "released", dtype=DTYPES[save_as],
    )  # fmt: skip
    pace = Pace(
        steps, learning_rate, min_rate=learning_rate, max_norm=0, accumulate=accumulate, seed=seed
    )
    return Training(recipe, pace)


@dataclass(frozen=True)
class Weights:
    """hinge: lambda inside the layer prior; the others are of the loss's terms."""

    distillation: float
    prior: float
    cycle: float
    hinge: float


@dataclass(frozen=True)
class Start:
    """How masks begin: as ones, or in layers with a dominant LoRA with shares of ones."""

    by_prior: bool
    dominant: float
    other: float
    seed: int

    def masks(self, dominant: int, other: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Masks of the ranks given, the dominant LoRA's first.

        The ones stand where one random vector is smallest: of equal ranks, the smaller set lies in
        the larger. A half is rounded up for the dominant LoRA and down for the other, so that of
        two or more ranks it has more; each has at least one.
        """
        vector = torch.rand(max(dominant, other), generator=generator)
        if not self.by_prior or self.dominant == self.other:
            return torch.ones(dominant), torch.ones(other)
        first = max(1, math.floor(self.dominant * dominant + 0.5))
        second = max(1, math.ceil(self.other * other - 0.5))
        return _ones_at(vector[:dominant], first), _ones_at(vector[:other], second)


def _ones_at(vector: Tensor, count: int) -> Tensor:
    """1 at the `count` smallest numbers, 0 elsewhere."""
    mask = torch.zeros_like(vector)
    mask[vector.argsort()[:count]] = 1.0
    return mask


def _rms(mask: Tensor) -> Tensor:
    """() root mean square; 1 for ones, at any rank."""
    return mask.norm() / mask.numel() ** 0.5


@dataclass(frozen=True)
class MaskedLora:
    """One LoRA of a pair. masks are learnt."""

    part: int
    update: Update
    masks: Masks

    def folded(self, path: str) -> list[Factors]:
        """The layer's update as it is now, its mask folded into up; none where it has none."""
        if path not in self.update:
            return []
        one = self.update[path]
        return [Factors(one.down, one.up * self.masks[path], one.scale)]


@dataclass(frozen=True)
class LoraPair:
    """<C_i, S>: one content with the style."""

    content: MaskedLora
    style: MaskedLora
    fused: Prompt | None


class DuoRecipe:
    """Pairs share nothing that is learnt, so learning them together is learning each alone."""

    def __init__(
        self,
        denoiser: Denoiser,
        merging: Merging,
        weights: Weights,
        start: Start,
        *,
        base_model: str,
        batch_size: int,
        moves: Moves,
        released: bool,
        dtype: torch.dtype,
    ) -> None:
        self.denoiser, self.merging, self.base_model = denoiser, merging, base_model
        self.weights, self.start, self.released = weights, start, released
        self.batch_size, self.moves, self.dtype = batch_size, moves, dtype
        updates = [frozen_updates(part, denoiser) for part in merging.parts]
        (style,) = merging.of("style")
        generator = torch.Generator().manual_seed(start.seed)
        self.pairs: list[LoraPair] = []
        for i, content in enumerate(merging.of("content")):
            of_content, of_style = self._begin(updates[content], updates[style], generator)
            fused = merging.fused[i] if merging.fused else None
            self.pairs.append(
                LoraPair(
                    MaskedLora(content, updates[content], of_content),
                    MaskedLora(style, updates[style], of_style),
                    fused,
                )
            )

    def _begin(
        self, content: Update, style: Update, generator: torch.Generator
    ) -> tuple[Masks, Masks]:
        """A pair's masks before the first step."""
        masks = tuple({p: torch.ones(one.rank) for p, one in own.items()}
                      for own in (content, style))  # fmt: skip
        for path, reverse in self._dominated(content, style).items():
            rank_c, rank_s = content[path].rank, style[path].rank
            if reverse:
                masks[1][path], masks[0][path] = self.start.masks(rank_s, rank_c, generator)
            else:
                masks[0][path], masks[1][path] = self.start.masks(rank_c, rank_s, generator)
        device = self.denoiser.device
        content_masks, style_masks = (
            {p: mask.to(device).requires_grad_(True) for p, mask in own.items()} for own in masks
        )
        return content_masks, style_masks

    def _dominated(self, content: Update, style: Update) -> dict[str, bool]:
        """Layers both adapt and one dominates -> whether style does."""
        known = self.merging.content_layers | self.merging.style_layers
        shared = [path for path in content if path in style and path in known]
        return {path: path in self.merging.style_layers for path in shared}

    def parameters(self) -> Mapping[str, Tensor]:
        return {
            f"{role}.{i}.{path}": mask
            for i, pair in enumerate(self.pairs)
            for role, side in (("content", pair.content), ("style", pair.style))
            for path, mask in side.masks.items()
        }  # fmt: skip

    def backward(self, draw: Draw, share: float) -> Mapping[str, float]:
        terms: dict[str, float] = {}
        for i, pair in enumerate(self.pairs):
            for name, value in self._pair(i, pair, draw, share).items():
                terms[name] = terms.get(name, 0.0) + value
        return terms

    def _pair(self, i: int, pair: LoraPair, draw: Draw, share: float) -> dict[str, float]:
        terms: dict[str, float] = {}
        for k, (own, other) in enumerate(((pair.content, pair.style), (pair.style, pair.content))):
            name, generator = ("content", "style")[k], draw.generator(2 * i + k)
            pictures = self.merging.parts[own.part].pictures
            ready = drawn(self.denoiser, pictures, self.batch_size, self.moves, generator)
            wanted = answer(self.denoiser, ready, own.update)
            if self.weights.distillation:
                terms[f"like {name}"] = self._alike(pair, ready, wanted, share)
            if self.weights.cycle:
                noise = torch.randn(ready.x.shape, generator=generator).to(ready.x.device)
                assert pair.fused is not None, "cycles have a fused prompt"
                passing = f"cycle {('style', 'content')[k]}"  # named for what it goes through
                terms[passing] = self._cycle(other, pair.fused, ready, noise, wanted, share)
        prior = self.weights.prior * self.layer_prior(pair)
        if prior.requires_grad:  # not where no layer has a dominant LoRA
            (share * prior).backward()
            terms["layer prior"] = float(prior.detach())
        return terms

    def _alike(self, pair: LoraPair, ready: Noised, wanted: Tensor, share: float) -> float:
        """The merged pair is to do as the picture's own LoRA does alone."""
        with self.denoiser.edited(masked_edits([pair.content, pair.style])):
            denoised = self.denoiser.denoise(ready.x, ready.sigma, ready.conditions)
            size = self.denoiser.loss_weight(ready.sigma).sqrt() / wanted[0].numel() ** 0.5  # (B,)
            distance = torch.linalg.vector_norm((denoised - wanted).flatten(1), dim=1)
            loss = self.weights.distillation * (size * distance).mean()
            (share * loss).backward()  # inside: checkpointed blocks run again here
        return float(loss.detach())

    def _cycle(
        self,
        other: MaskedLora,
        fused: Prompt,
        ready: Noised,
        noise: Tensor,
        wanted: Tensor,
        share: float,
    ) -> float:
        """Through the other LoRA and back: I_c -> I_cs -> I_csc, which is to be I_cc."""
        with self.denoiser.edited(masked_edits([other])):
            there = self.denoiser.denoise(ready.x, ready.sigma, [fused.condition] * len(ready.x))
            x = self.denoiser.noised(there, noise, ready.sigma)
            back = self.denoiser.denoise(x, ready.sigma, ready.conditions)
            loss = self.weights.cycle * (back - wanted).square().mean()
            (share * loss).backward()
        return float(loss.detach())

    def layer_prior(self, pair: LoraPair) -> Tensor:
        """() the mean over layers of Eq. 1, in shares of the dominant mask's rank."""
        losses = []
        for path, reverse in self._dominated(pair.content.update, pair.style.update).items():
            content, style = pair.content.masks[path], pair.style.masks[path]
            dominant, other = (style, content) if reverse else (content, style)
            losses.append(self._layer_prior(dominant, other))
        return torch.stack(losses).mean() if losses else torch.zeros(())

    def _layer_prior(self, dominant: Tensor, other: Tensor) -> Tensor:
        sparsity = dominant.abs().mean()
        if self.released:
            excess = (_rms(other) - _rms(dominant)) / dominant.numel() ** 0.5
        else:
            excess = (other.abs().mean() - sparsity).clamp_min(0.0)  # of the nuclear norms
        return sparsity + self.weights.hinge * excess

    def settings(self) -> Mapping[str, str]:
        weights, start = self.weights, self.start
        return {
            "recipe": "duo_lora",
            **self.merging.settings(),
            "base_model": self.base_model,
            "batch_size": str(self.batch_size),
            "shift": str(self.moves.shift),
            "mirror": str(self.moves.mirror),
            "distillation_weight": f"{weights.distillation:g}",
            "layer_prior_weight": f"{weights.prior:g}",
            "cycle_weight": f"{weights.cycle:g}",
            "prior": "released" if self.released else "paper",
            "hinge_weight": f"{weights.hinge:g}",
            "initialisation": "prior" if start.by_prior else "ones",
            "thresholds": f"{start.dominant:g} {start.other:g}",
            "prior_layers": self._prior_layers(),
        }

    def _prior_layers(self) -> str:
        """How many layers have a dominant LoRA."""
        found: dict[str, bool] = {}
        for pair in self.pairs:
            found |= self._dominated(pair.content.update, pair.style.update)
        of_style = sum(found.values())
        return f"{len(found) - of_style} content, {of_style} style" if found else "none"

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """An ordinary LoRA: the mean of the merged pairs, masks folded in."""
        share = 1 / len(self.pairs)
        style = MaskedLora(self.pairs[0].style.part, self.pairs[0].style.update, self._mean_style())
        layers: dict[str, list[Factors]] = {}
        for side, weight in [*((pair.content, share) for pair in self.pairs), (style, 1.0)]:
            for name in side.update:
                (one,) = side.folded(name)
                own = layers.setdefault(name, [])
                own.append(Factors(one.down, one.up * weight, one.scale))
        shares = [1.0 if part.branch.role == "style" else share for part in self.merging.parts]
        model = self.denoiser.layers
        write_merged(path, self.merging, layers, self.dtype, metadata, shares, model=model)

    def _mean_style(self) -> Masks:
        """The style's factors are in every pair: the mean of its masks is the mean of the pairs."""
        first = self.pairs[0].style.masks
        return {
            path: torch.stack([pair.style.masks[path] for pair in self.pairs]).mean(0)
            for path in first
        }


def masked_edits(sides: Sequence[MaskedLora]) -> dict[str, Edit]:
    """The layers of these LoRAs with their masks on."""
    paths = dict.fromkeys(path for side in sides for path in side.update)

    def edit(path: str) -> Edit:
        return summed_edit(lambda: [one for side in sides for one in side.folded(path)])

    return {path: edit(path) for path in paths}
