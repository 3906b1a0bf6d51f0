"""A content or style LoRA that learns on its own layer set alone.

CRAFT-LoRA (2026), arXiv:2602.18936, Eq. 7 and App. B.1: y = base(x) + alpha/rank * up (down x) on
the layers of I_c (a content LoRA) or I_s (a style LoRA), trained on the rank-limited backbone;
no other layer has a parameter, so no gradient can reach one. One picture is enough to train on.
Prior preservation is DreamBooth's (arXiv:2208.12242) and optional.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from ...errors import CraftError
from ...lora import kohya_stems, write_lora
from ...papers import CRAFT
from ...registry import Knob
from ...types import Factors
from ..data import Dataset, Moves, batch, choose, dropped
from ..denoiser import Denoiser, Edit, LayerCall
from ..loop import Pace, Training
from ..losses import Draw, denoising_loss, noised
from ..registry import DTYPES, TRAINING, Accumulate, Mirror, SaveAs, Shift
from ..slots import DataSlots, LayerSlot, Needs, NodeTexts, PictureSlot, RoleLayers, RoleSlot
from ..targets import trainable

_PICTURES, _PRIOR = 0, 1  # streams of a step's randomness


@dataclass(frozen=True)
class Pictures:
    """What a LoRA learns from. prior: pictures it must leave as the base model makes them."""

    learned: Dataset
    prior: Dataset | None = None


SLOTS = DataSlots(
    command="lora",
    usage="--checkpoint FILE --images FILE ... --role content|style [flags]",
    example=(
        "--checkpoint sd_xl_base_1.0.safetensors",
        "--images dog.png --caption 'a photo of sks dog' --size 1024x1024",
        "--role content --layer-sets b-lora --steps 1000 --name dog",
    ),
    slots=(
        RoleSlot(
            "content learns on the content layers, style on the style layers.",
            "content learns on the content layers, style on the style layers.",
        ),
        LayerSlot(),
        PictureSlot(
            "images",
            "training",
            "What to learn; one picture is enough.",
            "What to learn: one image is enough.",
            "a photo of sks dog",
        ),
        PictureSlot(
            "prior",
            "prior",
            "Pictures to leave as they are (prior preservation), such as other dogs made by the "
            "model itself.",
            "Pictures to stay as they are (prior preservation), such as other dogs made by the "
            "model itself.",
            captions_tooltip="A caption for each prior image, or one for all.",
            required=False,
            expands=True,
        ),
    ),
    save_name="craft/lora",
    node=NodeTexts(
        node_id="CRAFTTrainLoRA",
        title="Train Content/Style LoRA",
        description="Learns one content or one style from one picture or a few, on that role's "
        "layers only. The file is a plain LoRA that loads everywhere; it is saved in output/loras. "
        "Connect 'branches' to the Router's extra_branches.",
        aliases=("dreambooth", "b-lora", "train lora", "one image", "layer restricted"),
    ),
    from_pictures=NodeTexts(
        node_id="CRAFTLoRAFromPictures",
        title="LoRA from Pictures",
        description="Train Content/Style LoRA with few inputs: pictures, a trigger word, what it "
        "is, and how long. Captions are written for you where you give none. Connect 'branches' to "
        "the Router's extra_branches.",
        aliases=("train lora", "easy lora training", "dreambooth", "trigger word", "one image"),
    ),
    state="{role}",
    samples=True,
    arrange=lambda given: (
        Pictures(given.pictures["images"], given.pictures.get("prior")),
        given.place([given.role]),
        given.base_model,
    ),
)


@TRAINING.register("Content / style LoRA", paper=CRAFT, traits=Needs(SLOTS))
def lora(
    denoiser: Denoiser,
    pictures: Pictures,
    place: RoleLayers,
    base_model: str = "",
    *,
    rank: Annotated[int, Knob("Directions a layer can change in.", 1, 1024, 1)] = 16,
    alpha: Annotated[
        float, Knob("Strength at 1 is alpha / rank; 0 stands for alpha = rank.", 0.0, 1024.0, 0.5,
                    advanced=True)
    ] = 0.0,
    steps: Annotated[int, Knob("Training steps. The paper: 1000 to 2000.", 1, 1_000_000, 1)] = 1000,
    learning_rate: Annotated[
        float, Knob("Where the rate starts; it falls to a tenth as a cosine.", 1e-7, 1.0, 1e-6)
    ] = 1e-4,
    warmup: Annotated[int, Knob("Steps in which the rate rises.", 0, 100_000, 1)] = 20,
    batch_size: Annotated[int, Knob("Pictures a step. The paper: 1.", 1, 256, 1)] = 1,
    accumulate: Accumulate = 1,
    shift: Shift = 0,
    mirror: Mirror = False,
    caption_dropout: Annotated[
        float, Knob("Share of captions left empty. With ACFG the unconditional rows never see the "
                    "LoRA, so 0 is right for it.", 0.0, 1.0, 0.01, advanced=True),
    ] = 0.0,
    prior_weight: Annotated[
        float, Knob("Weight of the prior pictures' loss, where there are any.", 0.0, 10.0, 0.05,
                    advanced=True)
    ] = 1.0,
    seed: Annotated[int, Knob("Same seed, same LoRA.", 0, 2**64 - 1, 1)] = 0,
    save_as: SaveAs = "fp16",
) -> Training:  # fmt: skip
    """Learn one content or one style from a few pictures, on its own layers only."""
    shapes = {p: s for p, s in trainable(denoiser.layers).items() if p in place.layers}
    if not shapes:
        raise CraftError(
            f"None of the {len(place.layers)} layers of the {place.role} set can be trained",
            "A LoRA acts on linears of attention blocks and on convolutions",
            "Choose a layer set that has some",
        )
    recipe = LoraRecipe(
        denoiser, pictures, place, shapes, base_model=base_model,
        rank=rank, alpha=alpha or float(rank), batch_size=batch_size,
        moves=Moves(shift, mirror), caption_dropout=caption_dropout,
        prior_weight=prior_weight, seed=seed, dtype=DTYPES[save_as],
    )  # fmt: skip
    pace = Pace(
        steps, learning_rate, warmup=warmup, min_rate=learning_rate / 10,
        accumulate=accumulate, seed=seed,
    )  # fmt: skip
    return Training(recipe, pace)


class LoraRecipe:
    """down is random, up is zero: the first step starts from the model as it is."""

    def __init__(
        self,
        denoiser: Denoiser,
        pictures: Pictures,
        place: RoleLayers,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        base_model: str,
        rank: int,
        alpha: float,
        batch_size: int,
        moves: Moves,
        caption_dropout: float,
        prior_weight: float,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        self.denoiser, self.pictures, self.place = denoiser, pictures, place
        self.base_model = base_model
        self.rank, self.alpha, self.batch_size, self.moves = rank, alpha, batch_size, moves
        self.caption_dropout, self.prior_weight, self.dtype = caption_dropout, prior_weight, dtype
        generator = torch.Generator().manual_seed(seed)
        self.down: dict[str, Tensor] = {}
        self.up: dict[str, Tensor] = {}
        for path, shape in shapes.items():
            own = min(rank, shape[0], math.prod(shape[1:]))  # more directions than there are
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            down = (torch.rand(own, *shape[1:], generator=generator) * 2 - 1) * bound
            up = torch.zeros(shape[0], own)
            self.down[path] = down.to(denoiser.device).requires_grad_(True)
            self.up[path] = up.to(denoiser.device).requires_grad_(True)

    def parameters(self) -> Mapping[str, Tensor]:
        named = {f"down.{path}": value for path, value in self.down.items()}
        return named | {f"up.{path}": value for path, value in self.up.items()}

    def backward(self, draw: Draw, share: float) -> Mapping[str, float]:
        terms = {"denoising": self._term(self.pictures.learned, draw.generator(_PICTURES), share)}
        if self.pictures.prior is not None and self.prior_weight:
            weight = share * self.prior_weight
            term = self._term(self.pictures.prior, draw.generator(_PRIOR), weight)
            terms["prior"] = self.prior_weight * term
        return terms

    def _term(self, data: Dataset, generator: torch.Generator, weight: float) -> float:
        indices = choose(data.examples, self.batch_size, generator)
        chosen = [data.examples[i] for i in indices]
        latents, conditions = batch(chosen, self.moves, generator)
        conditions = dropped(conditions, data.empty, self.caption_dropout, generator)
        ready = noised(self.denoiser, latents, conditions, generator)
        with self.denoiser.edited(self.edits()):
            loss, _ = denoising_loss(self.denoiser, ready)
            (weight * loss).backward()  # inside: checkpointed blocks run again here
        return float(loss.detach())

    def edits(self) -> dict[str, Edit]:
        return {path: branch_edit(self.factors(path)) for path in self.down}

    def shown(self) -> tuple[Dataset, ...]:
        """What sample pictures are of."""
        return (self.pictures.learned,)

    def factors(self, path: str) -> Factors:
        """The layer's update as it is now."""
        down, up = self.down[path], self.up[path]
        return Factors(down, up, self.alpha / self.rank)

    def settings(self) -> Mapping[str, str]:
        return {
            "recipe": "lora",
            "role": self.place.role,
            "layer_set": self.place.layer_set,
            "layers": str(len(self.down)),
            "rank": str(self.rank),
            "alpha": f"{self.alpha:g}",
            "batch_size": str(self.batch_size),
            "shift": str(self.moves.shift),
            "mirror": str(self.moves.mirror),
            "caption_dropout": f"{self.caption_dropout:g}",
            "prior_weight": f"{self.prior_weight:g}" if self.pictures.prior else "0",
            "base_model": self.base_model,
            "pictures": self.pictures.learned.digest(),
            "prior": self.pictures.prior.digest() if self.pictures.prior else "",
        }

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """A LoRA file in kohya's names; no key outside the layer set."""
        layers = {name: self.stored(name) for name in self.down}
        kohya = {"ss_network_dim": str(self.rank), "ss_network_alpha": f"{self.alpha:g}"}
        kohya["ss_network_module"] = "networks.lora"
        own = {"craft_role": self.place.role, "craft_layer_set": self.place.layer_set}
        stems = kohya_stems(self.denoiser.layers)
        told = {**kohya, **own, **metadata}
        write_lora(path, layers, metadata=told, stems=stems, exclusive=True)

    def stored(self, path: str) -> Factors:
        now = self.factors(path)
        down, up = (value.detach().cpu().to(self.dtype) for value in (now.down, now.up))
        return Factors(down, up, now.scale)


def branch_edit(factors: Factors) -> Edit:
    """base(x) + scale * up (down x)."""

    def edit(call: LayerCall) -> Tensor:
        update = call.low_rank(factors.down, factors.up)
        return call.output + factors.scale * update.to(call.output.dtype)

    return edit
