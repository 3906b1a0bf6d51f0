"""The rank-limited backbone: learn which directions of each layer content and style give up.

CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 1-4 and 12-16. Every layer l has matrices M_c and M_s
(out, r_l); Q = qr(M).Q is taken out of what the layer returns, y = base(x) - Q Q^T (base(x) -
bias), which is what the weight W - Q Q^T W gives. A pair's content picture supervises Q_c and its
style picture Q_s, each with only its own side taken out; both are kept apart by
R = ||Q_c^T Q_s||_F^2.
Departures: R, lambda_reg and the losses' exact weights are not given in the paper: R is our
reading of "disjoint subspaces", averaged over layers so that its weight means the same in every
model. The paper's learning rates are missing from its text too; ours is for M with columns of
unit length. The release trains on a literal loss of 0.0, so there is nothing to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from ...errors import CraftError
from ...papers import CRAFT
from ...projection import (
    Basis,
    LayerBasis,
    RankSchedule,
    Side,
    decomposed,
    dimension,
    orthonormal,
    rank_schedule,
    write_basis,
)
from ...registry import Knob
from ...types import ROLES, Role
from ..data import Dataset, Moves, batch, choose, dropped
from ..denoiser import Denoiser, Edit, Example, LayerCall
from ..loop import Pace, Training
from ..losses import Draw, Noised, denoising_loss, noised
from ..registry import TRAINING
from ..slots import DataSlots, FileSlot, Needs, NodeTexts, PictureSlot
from ..targets import attention_linears, convolutions, trainable

# Mean over layers of relu features of two pictures (B, 3, H, W) in [0, 1]: Eq. 16.
PictureLoss = Callable[[Tensor, Tensor], Tensor]
LAYERS = {
    "attention and convolutions": trainable,
    "attention": attention_linears,
    "convolutions": convolutions,
}
_STREAMS = {"content": 0, "style": 1}
_PAIRS = 2  # the stream that chooses pairs


@dataclass(frozen=True)
class Pairs:
    """Contrastive pairs: pair i is (content.examples[i], style.examples[i]). Eq. 5."""

    content: Dataset
    style: Dataset

    def __post_init__(self) -> None:
        counts = len(self.content.examples), len(self.style.examples)
        if counts[0] != counts[1]:
            raise CraftError(
                f"There are {counts[0]} content pictures and {counts[1]} style pictures",
                "A pair has one of each",
                "Connect the Pair Builder's content and style images, or as many of one as of "
                "the other",
            )

    def of(self, role: Role) -> Dataset:
        return self.content if role == "content" else self.style


SLOTS = DataSlots(
    command="basis",
    usage="--checkpoint FILE --content FILE ... --style FILE ... [flags]",
    example=(
        "--checkpoint sd_xl_base_1.0.safetensors",
        "--content pictures/objects --style pictures/styles --size 1024x1024",
        "--batch-size 1 --accumulate 8 --name sdxl_basis",
    ),
    slots=(
        PictureSlot(
            "content",
            "content",
            "paired with each style picture (N x M pairs, Eq. 5).",
            "A picture a pair to learn content from, from the Pair Builder or Load Image.",
            "a photo of a dog",
        ),
        PictureSlot(
            "style",
            "style",
            "paired with each content picture (N x M pairs, Eq. 5).",
            "A picture a pair to learn style from, in the same order.",
            "a house in watercolor style",
        ),
        FileSlot(
            "vgg",
            "vgg",
            "VGG-19 as a safetensors file, by its name in models/vgg or its path, for the "
            "perceptual term. Default: trained without it.",
            "A VGG-19 safetensors file in models/vgg for the perceptual term; none trains without "
            "it.",
        ),
    ),
    save_name="craft/basis",
    folder="craft_bases",
    node=NodeTexts(
        node_id="CRAFTTrainBasis",
        title="Train Rank-Limited Basis",
        description="Learns from contrastive pairs which directions of each layer content and "
        "style give up, saves them in output/craft_bases, and returns the model without them: the "
        "rank-limited backbone that content and style LoRAs are trained on.",
        aliases=("rank limited backbone", "craft train", "subspace", "PaRa"),
    ),
    crossed=("content", "style"),
    limited=False,
    reader="perceptual",
)


@TRAINING.register("Rank-limited basis", paper=CRAFT, traits=Needs(SLOTS))
def basis(
    denoiser: Denoiser,
    pairs: Pairs,
    base_model: str,
    perceptual: PictureLoss | None = None,
    *,
    r_max: Annotated[int, Knob("Rank of the first layer, for content and for style each (Eq. 2).",
                               1, 1024, 1)] = 64,
    r_min: Annotated[int, Knob("Rank of the last layer.", 1, 1024, 1)] = 4,
    side: Annotated[
        str, Knob("output: the paper. input: the side the authors' release projects.",
                  choices=("output", "input"), advanced=True),
    ] = "output",
    layers: Annotated[str, Knob("Which layers give up directions.", choices=tuple(LAYERS))] = (
        "attention and convolutions"
    ),
    steps: Annotated[int, Knob("Training steps. The paper: 5000.", 1, 1_000_000, 1)] = 5000,
    learning_rate: Annotated[
        float, Knob("The highest rate; it falls to a hundredth as a cosine.", 1e-7, 1.0, 1e-6)
    ] = 1e-3,
    warmup: Annotated[int, Knob("Steps in which the rate rises. The paper: 500.",
                                0, 100_000, 1)] = 500,
    batch_size: Annotated[int, Knob("Pairs a step. The paper: 8.", 1, 256, 1)] = 8,
    accumulate: Annotated[int, Knob("Batches that make one step; batch 1 x 8 learns like batch 8 "
                                    "in an eighth of the memory.", 1, 256, 1, advanced=True)] = 1,
    overlap_weight: Annotated[
        float, Knob("Weight of ||Q_c^T Q_s||^2, which keeps the two apart.", 0.0, 100.0, 0.01,
                    advanced=True)
    ] = 0.1,
    perceptual_weight: Annotated[
        float, Knob("Weight of the VGG-19 term. Needs a VGG-19 file and a VAE; the paper: 0.1.",
                    0.0, 100.0, 0.01, advanced=True),
    ] = 0.1,
    caption_dropout: Annotated[
        float, Knob("Share of captions left empty: the backbone also runs the unconditional rows.",
                    0.0, 1.0, 0.01, advanced=True),
    ] = 0.1,
    seed: Annotated[int, Knob("Same seed, same basis.", 0, 2**64 - 1, 1)] = 0,
) -> Training:  # fmt: skip
    """Learn from contrastive pairs which directions a model's layers give up."""
    shapes = LAYERS[layers](denoiser.layers)
    chosen_side: Side = "input" if side == "input" else "output"
    schedule = rank_schedule(shapes, r_max, r_min, chosen_side)
    kept = {p: s for p, s in shapes.items() if p not in schedule.emptied}
    if not kept:
        raise CraftError(
            f"Ranks from {r_max} to {r_min} are as large as the layers themselves",
            "A basis leaves a layer some directions",
            "Lower r_max and r_min",
        )
    recipe = BasisRecipe(
        denoiser, pairs, kept, schedule, base_model=base_model, side=chosen_side,
        perceptual=perceptual if perceptual_weight else None, batch_size=batch_size,
        overlap_weight=overlap_weight, perceptual_weight=perceptual_weight,
        caption_dropout=caption_dropout, seed=seed,
    )  # fmt: skip
    pace = Pace(
        steps, learning_rate, warmup=warmup, min_rate=learning_rate / 100,
        accumulate=accumulate, seed=seed,
    )  # fmt: skip
    return Training(recipe, pace)


class BasisRecipe:
    """M_c and M_s of every layer; Q is computed once a step and walked backward once."""

    def __init__(
        self,
        denoiser: Denoiser,
        pairs: Pairs,
        shapes: Mapping[str, tuple[int, ...]],
        schedule: RankSchedule,
        *,
        base_model: str,
        side: Side,
        perceptual: PictureLoss | None,
        batch_size: int,
        overlap_weight: float,
        perceptual_weight: float,
        caption_dropout: float,
        seed: int,
    ) -> None:
        self.denoiser, self.pairs, self.schedule = denoiser, pairs, schedule
        self.base_model, self.perceptual = base_model, perceptual
        self.side: Side = side
        self.batch_size, self.caption_dropout = batch_size, caption_dropout
        self.overlap_weight, self.perceptual_weight = overlap_weight, perceptual_weight
        generator = torch.Generator().manual_seed(seed)
        self.matrices: dict[Role, dict[str, Tensor]] = {role: {} for role in ROLES}
        for role in ROLES:
            for path, shape in shapes.items():
                size = dimension(shape, side)
                start = torch.randn(size, schedule.ranks[path], generator=generator) * size**-0.5
                self.matrices[role][path] = start.to(denoiser.device).requires_grad_(True)

    def parameters(self) -> Mapping[str, Tensor]:
        return {f"{role}.{p}": m for role in ROLES for p, m in self.matrices[role].items()}

    def backward(self, draw: Draw, share: float) -> Mapping[str, float]:
        q = _orthonormal_all(self.matrices)
        # The losses stop at Q; what they leave there goes through the QR in one go.
        leaves: dict[Role, dict[str, Tensor]] = {
            role: {p: one.detach().requires_grad_(True) for p, one in q[role].items()}
            for role in ROLES
        }
        chosen = self._choose(draw.generator(_PAIRS))
        terms: dict[str, float] = {}
        for role in ROLES:
            generator = draw.generator(_STREAMS[role])
            terms |= self._task(role, chosen[role], leaves[role], generator, share)
        if self.overlap_weight:
            apart = self.overlap_weight * overlap(leaves["content"], leaves["style"])
            (share * apart).backward()
            terms["overlap"] = float(apart.detach())
        through = [(q[role][p], leaves[role][p].grad) for role in ROLES for p in q[role]]
        reached = [(one, gradient) for one, gradient in through if gradient is not None]
        torch.autograd.backward([one for one, _ in reached], [g for _, g in reached])
        return terms

    def _choose(self, generator: torch.Generator) -> dict[Role, list[Example]]:
        """A batch of pairs; the pictures of one side have one shape."""
        content, style = self.pairs.content.examples, self.pairs.style.examples
        indices = choose(content, self.batch_size, generator)
        shape = style[indices[0]].latent.shape
        kept = [i for i in indices if style[i].latent.shape == shape]
        return {"content": [content[i] for i in kept], "style": [style[i] for i in kept]}

    def _task(
        self, role: Role, examples: Sequence[Example], q: Mapping[str, Tensor],
        generator: torch.Generator, share: float,
    ) -> dict[str, float]:  # fmt: skip
        """The losses of one side's pictures with that side taken out. Eqs. 12-16."""
        latents, conditions = batch(examples, Moves(), generator)
        empty = self.pairs.of(role).empty
        conditions = dropped(conditions, empty, self.caption_dropout, generator)
        ready = noised(self.denoiser, latents, conditions, generator)
        with self.denoiser.edited(projections(q, self.side)):
            loss, denoised = denoising_loss(self.denoiser, ready)
            terms, total = {role: loss}, loss
            if self.perceptual is not None:
                terms[f"{role} perceptual"], slope = self._perceptual(denoised.detach(), ready)
                total = total + (slope * denoised).sum()  # has the term's gradient, not its value
            (share * total).backward()
        return {name: float(value.detach()) for name, value in terms.items()}

    def _perceptual(self, denoised: Tensor, ready: Noised) -> tuple[Tensor, Tensor]:
        """The weighted term, a scalar, and its gradient in `denoised`. Picture by picture: on their
        way through VAE and VGG each takes many times the memory of its latent."""
        assert self.perceptual is not None
        terms, slope = [], torch.zeros_like(denoised)
        for i in range(len(denoised)):
            with torch.no_grad():
                target = self.denoiser.decode(ready.latent[i : i + 1])
            one = denoised[i : i + 1].clone().requires_grad_(True)
            term = self.perceptual(self.denoiser.decode(one), target)
            term = term * (self.perceptual_weight / len(denoised))
            (slope[i : i + 1],) = torch.autograd.grad(term, one)
            terms.append(term.detach())
        return torch.stack(terms).sum(), slope

    def settings(self) -> Mapping[str, str]:
        ranks = [self.schedule.ranks[path] for path in self.matrices["content"]]
        return {
            "recipe": "basis",
            "side": self.side,
            "layers": str(len(ranks)),
            "ranks": f"{ranks[0]} to {ranks[-1]}",
            "batch_size": str(self.batch_size),
            "overlap_weight": f"{self.overlap_weight:g}",
            "perceptual_weight": f"{self.perceptual_weight:g}" if self.perceptual else "0",
            "caption_dropout": f"{self.caption_dropout:g}",
            "base_model": self.base_model,
            "pairs": str(len(self.pairs.content.examples)),
            "pictures": f"{self.pairs.content.digest()} {self.pairs.style.digest()}",
        }

    @torch.no_grad()
    def learned(self) -> dict[Role, dict[str, Tensor]]:
        """Q of every layer as it is now, float32 on the CPU."""
        return {
            role: {path: orthonormal(m).cpu() for path, m in self.matrices[role].items()}
            for role in ROLES
        }

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """A basis file of Q_c and Q_s; loading it merges the two (Eq. 3)."""
        q = self.learned()
        layers = {p: LayerBasis(q["content"][p], q["style"][p]) for p in q["content"]}
        figures = {"overlap": f"{float(overlap(q['content'], q['style'])):.6g}"}
        basis = Basis(layers, self.side, self.base_model, {**figures, **metadata})
        write_basis(path, basis, exclusive=True)


def _orthonormal_all(
    matrices: Mapping[Role, Mapping[str, Tensor]],
) -> dict[Role, dict[str, Tensor]]:
    """Q = qr(M).Q of every M, those of one shape in one call.

    Nothing is checked, as a check would make the device wait; M that lost a direction has a
    gradient that is not finite, which the loop refuses.
    """
    by_shape: dict[torch.Size, list[tuple[Role, str]]] = {}
    for role in ROLES:
        for path, matrix in matrices[role].items():
            by_shape.setdefault(matrix.shape, []).append((role, path))
    q: dict[Role, dict[str, Tensor]] = {role: {} for role in ROLES}
    for places in by_shape.values():
        stacked = torch.stack([matrices[role][path] for role, path in places])
        for (role, path), one in zip(places, decomposed(stacked)[0], strict=True):
            q[role][path] = one
    return q


def overlap(content: Mapping[str, Tensor], style: Mapping[str, Tensor]) -> Tensor:
    """Mean over layers of ||Q_c^T Q_s||_F^2: 0 where orthogonal, the rank where equal."""
    products = [content[path].T @ style[path] for path in content]
    return torch.stack([product.square().sum() for product in products]).mean()


def projections(q: Mapping[str, Tensor], side: Side) -> dict[str, Edit]:
    """Edits that take the subspaces out of the layers. Eq. 1 as an activation."""
    edit = output_projection if side == "output" else input_projection
    return {path: edit(one) for path, one in q.items()}


def output_projection(q: Tensor) -> Edit:
    """y - Q Q^T (y - bias): what W - Q Q^T W gives, the bias kept. q: (out, rank)."""

    def edit(call: LayerCall) -> Tensor:
        linear_part = call.output
        if call.bias is not None:
            spatial = call.output.ndim - 2 if call.is_convolution else 0
            bias = call.bias.reshape(-1, *[1] * spatial)  # (out,) or (out, 1, ...)
            linear_part = linear_part - bias.to(linear_part.dtype)
        inside = call.mix(call.mix(linear_part, q.T), q)
        return call.output - inside.to(call.output.dtype)

    return edit


def input_projection(q: Tensor) -> Edit:
    """y - W Q (Q^T x): what W - W Q Q^T gives. q: (n * kernel, rank)."""

    def edit(call: LayerCall) -> Tensor:
        weight = call.weight()  # (out, n, *kernel)
        down = q.T.reshape(q.shape[1], *weight.shape[1:])
        up = weight.to(q.dtype).flatten(1) @ q  # (out, rank)
        return call.output - call.low_rank(down, up).to(call.output.dtype)

    return edit
