"""One half of a B4M pair: a content half learns B of a partly learnable projection, a style half D.

B4M (Xu et al. 2025), arXiv:2403.19456, Secs. 4.1-4.2, "break". Multi-correspondence projection
learning, Eq. 12:

    loss = |W_B(z, c, t) - x|^2 + mean over n partners |W_D(z_i, c_i, t) - x_i|^2

While a content half learns its B from its own pictures, its D learns varied styles, so that B need
not hold the one style its pictures happen to have; a style half learns D, its B varied contents.
Each loss runs through the whole projection and teaches its own block. Without partners the other
block stays 0 and the loss is the first term alone. The partners' block is a tool of the training:
the saved half holds its own block, over the frozen ones, and zeros; it loads as any LoRA does.

The paper projects SDXL's attention layers with as many outputs as inputs, as we do (`square_only`
off: all attention linears). Convolutions of 3x3 and more are left out: half of a flattened kernel
is no half of the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from ...errors import CraftError
from ...lora import kohya_stems, write_lora
from ...papers import B4M
from ...registry import Knob
from ...types import ROLES, Factors, LayerShapes, Role
from ..data import Dataset, Moves
from ..denoiser import Denoiser
from ..loop import Pace, Training
from ..losses import Draw, Noised, denoising_loss
from ..merge import drawn
from ..plp import Plp, basis_id, can_be_cut, starts
from ..registry import DTYPES, TRAINING, Accumulate, Mirror, SaveAs, Shift
from ..slots import DataSlots, LayerSlot, Needs, NodeTexts, PictureSlot, RoleLayers, RoleSlot
from ..targets import attention_linears
from .lora import branch_edit

FORMAT = "craft_b4m_half"
BASIS, SHARE = "craft_b4m_basis", "craft_b4m_share"  # metadata of a half
_OWN, _PARTNERS = 0, 1  # streams of a step's randomness


@dataclass(frozen=True)
class HalfPictures:
    """learned: the half's own content or style. partners: varied pictures of the other role, each
    under its own caption: styles for a content half, contents for a style half."""

    learned: Dataset
    partners: Dataset | None = None


@dataclass(frozen=True)
class FrozenBasis:
    """The frozen halves that the two halves of a pair share."""

    rank: int
    share: float
    seed: int


SLOTS = DataSlots(
    command="b4m",
    usage="--checkpoint FILE --images FILE ... --role content|style [flags]",
    example=(
        "--checkpoint sd_xl_base_1.0.safetensors",
        "--images dog.png --caption 'a photo of sks dog' --size 1024x1024",
        "--partners pictures/styles --role content --name dog",
    ),
    slots=(
        RoleSlot(
            "Which half: content or style. A pair needs one of each.",
            "Which half: content or style. A pair needs one of each.",
        ),
        LayerSlot(default="all"),
        PictureSlot(
            "images",
            "training",
            "What to learn; one picture is enough.",
            "What to learn: one image is enough.",
            "a photo of sks dog",
        ),
        PictureSlot(
            "partners",
            "partner",
            "Varied pictures of the other role, about five: styles for a content half, contents "
            "for a style half.",
            "Varied pictures of the other role, about five: styles for a content half, contents "
            "for a style half. They keep out of this half what its own pictures only happen to "
            "have.",
            captions_tooltip="A caption for each partner image, or one for all.",
            required=False,
            expands=True,
        ),
    ),
    save_name="craft/half",
    node=NodeTexts(
        node_id="CRAFTTrainB4M",
        title="Train B4M Half",
        description="Learns one content or one style as one half of a LoRA whose other half is "
        "frozen, so that a content half and a style half can be joined by Learn LoRA Merge. A "
        "half is a plain LoRA too; it is saved in output/loras.",
        aliases=("break for make", "b4m", "plp", "mcp", "partly learnable projection"),
        tooltips={
            "branches": "Branches to add this one to, such as the other half's.",
            "branches_out": "For Learn LoRA Merge, or the Router's extra_branches.",
        },
    ),
    state="b4m_{role}",
    arrange=lambda given: (
        HalfPictures(given.pictures["images"], given.pictures.get("partners")),
        given.place(ROLES),  # a pair acts on the same layers
        given.base_model,
    ),
)


@TRAINING.register("B4M half", paper=B4M, traits=Needs(SLOTS))
def b4m_half(
    denoiser: Denoiser,
    pictures: HalfPictures,
    place: RoleLayers,
    base_model: str = "",
    *,
    rank: Annotated[
        int, Knob("Directions a layer can change in, half of them for each role. The paper: 64. "
                  "The same for both halves.", 2, 1024, 2),
    ] = 64,
    share: Annotated[
        float, Knob("Share of a layer's outputs and inputs that is frozen. The paper: a half is "
                    "best. The same for both halves.", 0.125, 0.875, 0.125, advanced=True),
    ] = 0.5,
    square_only: Annotated[
        bool, Knob("Only layers with as many outputs as inputs, as in the paper. Off: all linears "
                   "of attention blocks. The same for both halves.", advanced=True),
    ] = True,
    basis_seed: Annotated[
        int, Knob("Makes the frozen parts. The same for both halves.", 0, 2**32 - 1, 1)
    ] = 0,
    steps: Annotated[int, Knob("Training steps. The release: 1000.", 1, 1_000_000, 1)] = 1000,
    learning_rate: Annotated[
        float, Knob("Where the rate starts; it falls to a tenth as a cosine. The paper: 1e-4.",
                    1e-7, 1.0, 1e-6)
    ] = 1e-4,
    warmup: Annotated[int, Knob("Steps in which the rate rises.", 0, 100_000, 1)] = 20,
    batch_size: Annotated[int, Knob("Pictures a step. The paper: 1.", 1, 256, 1)] = 1,
    partner_batch: Annotated[
        int, Knob("Partner pictures a step, where there are any; Eq. 12 takes all of them, a few "
                  "drawn anew each time are the same on average.", 1, 256, 1, advanced=True),
    ] = 1,
    accumulate: Accumulate = 1,
    shift: Shift = 0,
    mirror: Mirror = False,
    seed: Annotated[int, Knob("Same seed, same half.", 0, 2**64 - 1, 1)] = 0,
    save_as: SaveAs = "fp16",
) -> Training:  # fmt: skip
    """Learn one content or one style as a half that Learn LoRA Merge can join with another."""
    recipe = HalfRecipe(
        denoiser, pictures, place, FrozenBasis(rank, share, basis_seed),
        _projected(denoiser, place, square_only),
        base_model=base_model, batch_size=batch_size, partner_batch=partner_batch,
        moves=Moves(shift, mirror), dtype=DTYPES[save_as],
    )  # fmt: skip
    pace = Pace(
        steps, learning_rate, warmup=warmup, min_rate=learning_rate / 10,
        accumulate=accumulate, seed=seed,
    )  # fmt: skip
    return Training(recipe, pace)


def _projected(denoiser: Denoiser, place: RoleLayers, square_only: bool) -> LayerShapes:
    """The layers a half is learned on, in the model's order; CraftError if there are none."""
    shapes = {
        path: shape
        for path, shape in attention_linears(denoiser.layers).items()
        if path in place.layers and can_be_cut(shape) and (shape[0] == shape[1] or not square_only)
    }
    if not shapes:
        kind = "square linears" if square_only else "linears"
        raise CraftError(
            f"None of the {len(place.layers)} chosen layers can be projected",
            f"A half acts on {kind} of attention blocks",
            "Choose a layer set that has some" + (", or turn square_only off" * square_only),
        )
    return shapes


class HalfRecipe:
    """The first step starts from the model as it is: B = 0 and D = 0, see plp.start."""

    def __init__(
        self,
        denoiser: Denoiser,
        pictures: HalfPictures,
        place: RoleLayers,
        basis: FrozenBasis,
        shapes: LayerShapes,
        *,
        base_model: str,
        batch_size: int,
        partner_batch: int,
        moves: Moves,
        dtype: torch.dtype,
    ) -> None:
        self.denoiser, self.pictures, self.place, self.basis = denoiser, pictures, place, basis
        self.base_model, self.batch_size, self.partner_batch = base_model, batch_size, partner_batch
        self.moves, self.dtype = moves, dtype
        self.basis_id = basis_id(shapes, basis.rank, basis.share, basis.seed)
        made = starts(shapes, basis.rank, basis.share, basis.seed)
        self.blocks = {path: one.to(denoiser.device) for path, one in made.items()}
        for one in self.blocks.values():
            for free in self._learned(one).values():
                free.requires_grad_(True)

    def _learned(self, one: Plp) -> dict[str, Tensor]:
        """A layer's trained blocks by name: its role's own, and the other where it has partners."""
        free = {"up": one.free_up, "down": one.free_down}
        if self.pictures.partners is None:
            del free["down" if self.place.role == "content" else "up"]
        return free

    def parameters(self) -> Mapping[str, Tensor]:
        return {
            f"{name}.{path}": value
            for path, one in self.blocks.items()
            for name, value in self._learned(one).items()
        }

    def backward(self, draw: Draw, share: float) -> Mapping[str, float]:
        role, pictures = self.place.role, self.pictures
        generator = draw.generator(_OWN)
        own = drawn(self.denoiser, pictures.learned, self.batch_size, self.moves, generator)
        terms = {"own": self._term(own, role, share)}
        if pictures.partners is not None:
            generator, size = draw.generator(_PARTNERS), self.partner_batch
            partners = drawn(self.denoiser, pictures.partners, size, self.moves, generator)
            other: Role = "style" if role == "content" else "content"
            terms["partners"] = self._term(partners, other, share)
        return terms

    def _term(self, pictures: Noised, role: Role, share: float) -> float:
        """The denoising loss through the whole projection, its gradient to the role's block."""
        edits = {path: branch_edit(one.learning(role).factors())
                 for path, one in self.blocks.items()}  # fmt: skip
        with self.denoiser.edited(edits):
            loss, _ = denoising_loss(self.denoiser, pictures)
            (share * loss).backward()  # inside: checkpointed blocks run again here
        return float(loss.detach())

    def settings(self) -> Mapping[str, str]:
        partners = self.pictures.partners
        return {
            "recipe": "b4m_half",
            "role": self.place.role,
            "layer_set": self.place.layer_set,
            "layers": str(len(self.blocks)),
            "rank": str(self.basis.rank),
            "file_ranks": " ".join(map(str, sorted(self._ranks()))),
            "share": repr(self.basis.share),
            "basis_seed": str(self.basis.seed),
            "basis": self.basis_id,
            "batch_size": str(self.batch_size),
            "partner_batch": str(self.partner_batch) if partners else "0",
            "shift": str(self.moves.shift),
            "mirror": str(self.moves.mirror),
            "base_model": self.base_model,
            "pictures": self.pictures.learned.digest(),
            "partners": partners.digest() if partners else "",
        }

    def _ranks(self) -> set[int]:
        """The ranks there are: that asked for, and less in layers too small for it."""
        return {one.fixed_up.shape[1] for one in self.blocks.values()}

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """A LoRA file in kohya's names: the frozen blocks and the role's own."""
        layers = {name: self._stored(one) for name, one in self.blocks.items()}
        rank = str(max(self._ranks()))
        kohya = {"ss_network_dim": rank, "ss_network_alpha": rank}
        kohya["ss_network_module"] = "networks.lora"
        own = {
            "craft_format": FORMAT,
            "craft_role": self.place.role,
            "craft_layer_set": self.place.layer_set,
            BASIS: self.basis_id,
            SHARE: repr(self.basis.share),
        }
        stems = kohya_stems(self.denoiser.layers)
        told = {**kohya, **own, **metadata}
        write_lora(path, layers, metadata=told, stems=stems, exclusive=True)

    def _stored(self, one: Plp) -> Factors:
        found = one.alone(self.place.role).factors()
        down, up = (value.detach().cpu().to(self.dtype) for value in (found.down, found.up))
        return Factors(down, up, found.scale)
