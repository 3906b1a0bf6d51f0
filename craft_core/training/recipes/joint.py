"""A content LoRA and a style LoRA trained together, each on its own layers and own pictures.

Ours, a baseline for comparisons: what CRAFT-LoRA and B-LoRA learn apart, learned in one training.
Each step adds the denoising losses of content pictures and of style pictures, and both LoRAs act
in both, so that each learns beside the other as it will act beside it. No layer belongs to both
roles, so one file holds the two: as a plain LoRA it is the pair, and on the layers of one role
it is that role's LoRA alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import Tensor

from ...errors import CraftError, listed
from ...lora import kohya_stems, write_lora
from ...registry import Knob
from ...types import ROLES, Role
from ..data import Dataset, Moves
from ..denoiser import Denoiser, Edit
from ..loop import Pace, Training
from ..losses import Draw, denoising_loss
from ..merge import drawn
from ..registry import DTYPES, TRAINING, Accumulate, Mirror, SaveAs, Shift
from ..slots import DataSlots, LayerSlot, Needs, NodeTexts, PictureSlot, RoleLayers
from ..targets import trainable
from .lora import LoraRecipe, Pictures

SLOTS = DataSlots(
    command="joint",
    usage="--checkpoint FILE --content FILE ... --style FILE ... [flags]",
    example=(
        "--checkpoint sd_xl_base_1.0.safetensors",
        "--content dog.png --content-caption 'a photo of sks dog'",
        "--style ink.png --style-caption 'a house in zwx style'",
        "--size 1024x1024 --layer-sets b-lora --name dog_in_ink",
    ),
    slots=(
        LayerSlot(),
        PictureSlot(
            "content",
            "content",
            "What the content layers learn; one picture is enough.",
            "What the content layers learn: one image is enough.",
            "a photo of sks dog",
        ),
        PictureSlot(
            "style",
            "style",
            "What the style layers learn; one picture is enough.",
            "What the style layers learn: one image is enough.",
            "a house in zwx style",
        ),
    ),
    save_name="craft/joint",
    node=NodeTexts(
        node_id="CRAFTTrainJoint",
        title="Train Content and Style LoRA",
        description="Learns one content and one style in one training, each on its own layers and "
        "both acting in every step. One file holds the two; it is a plain LoRA that loads "
        "everywhere, saved in output/loras. Connect 'branches' to the Router's extra_branches.",
        aliases=("joint training", "train both loras", "b-lora", "one image"),
        tooltips={
            "branches": "Branches to add these two to.",
            "branches_out": "The content and the style branch, each on the layers it was trained "
            "on, for the Router's extra_branches.",
        },
    ),
    from_pictures=NodeTexts(
        node_id="CRAFTPairFromPictures",
        title="LoRA Pair from Pictures",
        description="Train Content and Style LoRA with few inputs: pictures of a thing, pictures "
        "in a style, a trigger word for each, and how long. Captions are written for you where you "
        "give none. Connect 'branches' to the Router's extra_branches.",
        aliases=("train both loras", "easy lora training", "content and style", "trigger word"),
        tooltips={
            "branches": "Branches to add these two to.",
            "branches_out": "The content and the style branch, each on the layers it was trained "
            "on, for the Router's extra_branches.",
        },
    ),
    roles=ROLES,
    state="joint",
    samples=True,
    arrange=lambda given: (
        PicturesOfBoth(given.pictures["content"], given.pictures["style"]),
        {role: RoleLayers(role, given.layers[role], given.layer_set) for role in ROLES},
        given.base_model,
    ),
)


@dataclass(frozen=True)
class PicturesOfBoth:
    """What each of the two LoRAs learns, under its own captions."""

    content: Dataset
    style: Dataset

    def of(self, role: Role) -> Dataset:
        return self.content if role == "content" else self.style


@TRAINING.register("Content and style LoRA, jointly", traits=Needs(SLOTS))
def joint(
    denoiser: Denoiser,
    pictures: PicturesOfBoth,
    places: Mapping[Role, RoleLayers],
    base_model: str = "",
    *,
    rank: Annotated[int, Knob("Directions a layer can change in.", 1, 1024, 1)] = 16,
    steps: Annotated[int, Knob("Training steps.", 1, 1_000_000, 1)] = 1000,
    learning_rate: Annotated[
        float, Knob("Where the rate starts; it falls to a tenth as a cosine.", 1e-7, 1.0, 1e-6)
    ] = 1e-4,
    warmup: Annotated[int, Knob("Steps in which the rate rises.", 0, 100_000, 1)] = 20,
    batch_size: Annotated[int, Knob("Pictures a step, of each role.", 1, 256, 1)] = 1,
    accumulate: Accumulate = 1,
    shift: Shift = 0,
    mirror: Mirror = False,
    seed: Annotated[int, Knob("Same seed, same LoRAs.", 0, 2**64 - 1, 1)] = 0,
    save_as: SaveAs = "fp16",
) -> Training:
    """Learn one content and one style together, each on its own layers, into one LoRA file."""
    shared = places["content"].layers & places["style"].layers
    if shared:
        raise CraftError(
            f"{len(shared)} layers are both roles', such as {listed(sorted(shared), 3)}",
            "Trained jointly, each layer learns either content or style",
            "Choose layer sets that share no layer, such as b-lora",
        )
    halves = {}
    for number, role in enumerate(ROLES):
        shapes = {p: s for p, s in trainable(denoiser.layers).items() if p in places[role].layers}
        if not shapes:
            raise CraftError(
                f"None of the {len(places[role].layers)} layers of the {role} set can be trained",
                "A LoRA acts on linears of attention blocks and on convolutions",
                "Choose a layer set that has some",
            )
        halves[role] = LoraRecipe(
            denoiser, Pictures(pictures.of(role)), places[role], shapes, base_model=base_model,
            rank=rank, alpha=float(rank), batch_size=batch_size, moves=Moves(shift, mirror),
            caption_dropout=0.0, prior_weight=0.0, seed=(seed + number) % 2**64,
            dtype=DTYPES[save_as],
        )  # fmt: skip
    pace = Pace(
        steps, learning_rate, warmup=warmup, min_rate=learning_rate / 10,
        accumulate=accumulate, seed=seed,
    )  # fmt: skip
    return Training(JointRecipe(halves), pace)


class JointRecipe:
    """Two LoRAs on separate layers, both acting whenever either learns."""

    def __init__(self, halves: Mapping[Role, LoraRecipe]) -> None:
        self.halves = halves
        self.denoiser = next(iter(halves.values())).denoiser

    def parameters(self) -> Mapping[str, Tensor]:
        return {name: value for half in self.halves.values()
                for name, value in half.parameters().items()}  # fmt: skip

    def backward(self, draw: Draw, share: float) -> Mapping[str, float]:
        terms = {}
        for stream, (role, half) in enumerate(self.halves.items()):
            generator = draw.generator(stream)
            data, size, moves = half.pictures.learned, half.batch_size, half.moves
            ready = drawn(self.denoiser, data, size, moves, generator)
            with self.denoiser.edited(self.edits()):
                loss, _ = denoising_loss(self.denoiser, ready)
                (share * loss).backward()  # inside: checkpointed blocks run again here
            terms[role] = float(loss.detach())
        return terms

    def edits(self) -> dict[str, Edit]:
        return {path: edit for half in self.halves.values() for path, edit in half.edits().items()}

    def shown(self) -> tuple[Dataset, ...]:
        """What sample pictures are of."""
        return tuple(half.pictures.learned for half in self.halves.values())

    def settings(self) -> Mapping[str, str]:
        first = self.halves["content"]
        return {
            "recipe": "joint",
            "layer_set": first.place.layer_set,
            "layers": " ".join(str(len(half.down)) for half in self.halves.values()),
            "rank": str(first.rank),
            "batch_size": str(first.batch_size),
            "shift": str(first.moves.shift),
            "mirror": str(first.moves.mirror),
            "base_model": first.base_model,
            "pictures": " ".join(half.pictures.learned.digest() for half in self.halves.values()),
        }

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """One LoRA file in kohya's names, with the layers of both."""
        layers = {name: half.stored(name) for half in self.halves.values() for name in half.down}
        rank = str(self.halves["content"].rank)
        kohya = {"ss_network_dim": rank, "ss_network_alpha": rank}
        kohya["ss_network_module"] = "networks.lora"
        place = self.halves["content"].place
        own = {"craft_role": " ".join(self.halves), "craft_layer_set": place.layer_set}
        stems = kohya_stems(self.denoiser.layers)
        told = {**kohya, **own, **metadata}
        write_lora(path, layers, metadata=told, stems=stems, exclusive=True)
