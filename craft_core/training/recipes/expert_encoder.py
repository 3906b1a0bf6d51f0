"""The expert encoder: how much of every frozen LoRA layer a prompt's phrases call for.

CRAFT-LoRA (2026), arXiv:2602.18936, App. B.1: with the LoRAs frozen, y = base(x) + gamma_j s_jl
strength_j alpha/rank up (down x), and only the encoder that gives the scales s_jl learns, by the
denoising loss on captioned pictures whose phrases are marked. A role without its marker has gamma
0 and teaches nothing about it. One paragraph is all the paper has: it gives neither the loss, nor
the pictures, nor any number but 64. Ours are: the denoising loss; optional pictures of *other*
contents and styles under their own phrases, on which LoRAs that do not belong there are learnt to
be damped (B.3 asks for prompts that differ from the trained ones, and pictures of the trained
ones alone cannot teach them); a weak pull of all scales towards 1; and now and then no concept,
so that a pair of LoRAs it was not trained with meets an encoder that has seen the like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from ...encoder.file import write_encoder
from ...encoder.network import UNKNOWN, Concept, ExpertEncoder, PhraseEmbeddings
from ...errors import CraftError
from ...papers import CRAFT
from ...registry import Knob
from ...types import ROLES, Branch, LayerUpdate, Role
from ..data import Dataset, Moves, batch, choose
from ..denoiser import Condition, Denoiser, Edit, Example, LayerCall
from ..loop import Pace, Training
from ..losses import Draw, Noised, denoising_loss, noised
from ..registry import TRAINING, Accumulate, Mirror, Shift
from ..slots import (
    DataSlots,
    LayerSlot,
    LoraSlot,
    Needs,
    NodeTexts,
    PictureSlot,
    UnmatchedSlot,
)

_LEARNED, _OTHER = 0, 1  # streams of a step's randomness


@dataclass(frozen=True)
class Phrased:
    """Pictures whose captions are marked.

    phrases: by picture. gammas: by picture, one a branch, 0 where the caption lacks the marker.
    """

    pictures: Dataset
    phrases: tuple[PhraseEmbeddings, ...]
    gammas: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        count = len(self.pictures.examples)
        assert len(self.phrases) == len(self.gammas) == count, "phrases and gammas by picture"
        for one, gammas in zip(self.pictures.examples, self.gammas, strict=True):
            if not any(gammas):
                raise _teaches_nothing(f"The caption of {_named(one)} switches no LoRA on")

    def digest(self) -> str:
        """Short hash of pictures, captions, phrases and gammas."""
        found = hashlib.sha256(f"{self.pictures.digest()} {self.gammas}".encode())
        for one in self.phrases:
            for vector in (one.content, one.style):
                found.update(b"-" if vector is None else vector.float().numpy().tobytes())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Lessons:
    """learned: what the LoRAs were trained for. other: what they were not, under its own words."""

    learned: Phrased
    other: Phrased | None = None


def require_experts(strengths: Sequence[float]) -> None:
    """CraftError unless there is a LoRA."""
    if not strengths:
        raise CraftError(
            "There is neither a --content-lora nor a --style-lora",
            "An encoder learns how much of each LoRA a phrase calls for",
            "Name the LoRAs it is for",
        )


SLOTS = DataSlots(
    command="encoder",
    usage="--checkpoint FILE --images FILE ... --content-lora FILE --style-lora FILE [flags]",
    example=(
        "--checkpoint sd_xl_base_1.0.safetensors",
        "--content-lora dog_00001_.safetensors --style-lora ink_00001_.safetensors",
        "--images dog.png --caption '<c>a sks dog</c> in <s>ink style</s>'",
        "--size 1024x1024 --name dog_in_ink",
    ),
    slots=(
        LoraSlot(
            "The LoRAs, from LoRA List, Load LoRA Branch or Train Content/Style LoRA: the same as "
            "in the Router.",
            require_experts,
        ),
        LayerSlot(auto=True),
        UnmatchedSlot(
            "Go without the LoRA keys and layer patterns that match nothing; they are reported.",
            "Off: LoRA keys or layer patterns that match nothing are an error. On: they are "
            "listed in the report and ignored.",
        ),
        PictureSlot(
            "images",
            "training",
            "What the LoRAs were trained for. Captions mark their phrases: "
            "'<c>a sks dog</c> in <s>watercolor style</s>'.",
            "Pictures of what the LoRAs were trained for.",
            "<c>a sks dog</c> in <s>watercolor style</s>",
            "What the pictures show, phrases marked as for the Router: a line for each, one line "
            "for all, or a list of texts.",
        ),
        PictureSlot(
            "other",
            "other",
            "Other contents and styles, on which LoRAs that do not belong there learn to step "
            "back; captions marked too.",
            "Pictures of other contents and styles, on which LoRAs that do not belong there learn "
            "to step back.",
            captions_tooltip="A marked caption for each other image, or one for all, e.g. "
            "'<c>a bicycle</c> in <s>sketch style</s>'.",
            required=False,
        ),
    ),
    save_name="craft/encoder",
    folder="craft_encoders",
    node=NodeTexts(
        node_id="CRAFTTrainEncoder",
        title="Train Expert Encoder",
        description="Learns, with the LoRAs frozen, how much of each LoRA layer a marked phrase "
        "calls for, and saves that in output/craft_encoders. Pictures of other contents and styles "
        "teach it where a LoRA does not belong.",
        aliases=("craft train", "expert encoder", "lora scales", "semantic extension"),
        tooltips={
            "model": "The model the LoRAs act on; it is not changed.",
            "clip": "Encodes captions and phrases; the Router needs the same one.",
            "report": "The saved file, the losses, the layers.",
        },
    ),
    reader="experts",
)


@TRAINING.register("Expert encoder", paper=CRAFT, traits=Needs(SLOTS))
def expert_encoder(
    denoiser: Denoiser,
    lessons: Lessons,
    branches: Sequence[Branch],
    concept: Concept,
    layer_set: str = "",
    base_model: str = "",
    *,
    steps: Annotated[int, Knob("Training steps.", 1, 1_000_000, 1)] = 500,
    learning_rate: Annotated[
        float, Knob("Where the rate starts; it falls to a tenth as a cosine.", 1e-7, 1.0, 1e-6)
    ] = 1e-3,
    warmup: Annotated[int, Knob("Steps in which the rate rises.", 0, 100_000, 1)] = 20,
    batch_size: Annotated[int, Knob("Pictures a step, of each kind.", 1, 256, 1)] = 1,
    accumulate: Accumulate = 1,
    shift: Shift = 0,
    mirror: Mirror = False,
    other_weight: Annotated[
        float, Knob("Weight of the other pictures' loss, where there are any.", 0.0, 10.0, 0.05,
                    advanced=True)
    ] = 1.0,
    neutral_weight: Annotated[
        float, Knob("Weight of the pull towards scales of 1.", 0.0, 10.0, 0.001, advanced=True)
    ] = 0.001,
    concept_dropout: Annotated[
        float, Knob("Share of pictures seen without the concept, as LoRAs it does not know will "
                    "be.", 0.0, 1.0, 0.01, advanced=True),
    ] = 0.1,
    seed: Annotated[int, Knob("Same seed, same encoder.", 0, 2**64 - 1, 1)] = 0,
) -> Training:  # fmt: skip
    """Learn how much of each LoRA layer a prompt's phrases call for; the LoRAs stay as they are."""
    if not any(branch.layers for branch in branches):
        raise CraftError(
            "No LoRA acts on any layer of its set",
            "The encoder learns one scale for each layer a LoRA acts on",
            "Choose LoRAs and a layer set that share layers",
        )
    _require_acting(lessons.learned, branches)
    if lessons.other is not None:
        _require_acting(lessons.other, branches)
    recipe = EncoderRecipe(
        denoiser, lessons, branches, concept, layer_set=layer_set, base_model=base_model,
        batch_size=batch_size,
        moves=Moves(shift, mirror), other_weight=other_weight, neutral_weight=neutral_weight,
        concept_dropout=concept_dropout, seed=seed,
    )  # fmt: skip
    pace = Pace(
        steps, learning_rate, warmup=warmup, min_rate=learning_rate / 10,
        accumulate=accumulate, seed=seed,
    )  # fmt: skip
    return Training(recipe, pace)


class EncoderRecipe:
    """The encoder is small and stays on the CPU; its scales go to the model, gradients come back.

    branches: each with the layers it may act on and no others. layer_set: what chose them, for
    the file's metadata.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        lessons: Lessons,
        branches: Sequence[Branch],
        concept: Concept,
        *,
        layer_set: str,
        base_model: str,
        batch_size: int,
        moves: Moves,
        other_weight: float,
        neutral_weight: float,
        concept_dropout: float,
        seed: int,
    ) -> None:
        self.denoiser, self.lessons = denoiser, lessons
        self.concept, self.layer_set, self.base_model = concept, layer_set, base_model
        self.batch_size, self.moves = batch_size, moves
        self.other_weight, self.neutral_weight = other_weight, neutral_weight
        self.concept_dropout = concept_dropout
        self.branches = [_frozen(branch, denoiser.device) for branch in branches]
        layers: dict[Role, list[str]] = {
            role: _layers(self.branches, role, denoiser.layers) for role in ROLES
        }
        self._adapted = frozenset(path for branch in self.branches for path in branch.layers)
        self.encoder = ExpertEncoder(layers, _text_width(lessons), [concept], seed)

    def parameters(self) -> Mapping[str, Tensor]:
        return dict(self.encoder.named_parameters())

    def backward(self, draw: Draw, share: float) -> Mapping[str, float]:
        learned = self._term(self.lessons.learned, draw.generator(_LEARNED), share)
        terms = {"denoising": learned}
        if self.lessons.other is not None and self.other_weight:
            weight = share * self.other_weight
            other = self._term(self.lessons.other, draw.generator(_OTHER), weight)
            terms["other"] = self.other_weight * other
        if self.neutral_weight:
            terms["neutral"] = self._pull(share)
        return terms

    def _term(self, data: Phrased, generator: torch.Generator, weight: float) -> float:
        indices = choose(data.pictures.examples, self.batch_size, generator)
        latents, conditions = batch(
            [data.pictures.examples[i] for i in indices], self.moves, generator
        )
        ready = noised(self.denoiser, latents, conditions, generator)
        drawn = torch.rand(len(indices), generator=generator)
        scales = self._scales([data.phrases[i] for i in indices], drawn < self.concept_dropout)
        # The losses stop at the scales; what they leave there goes through the encoder in one go.
        leaf = scales.detach().to(self.denoiser.device).requires_grad_(True)
        gammas = torch.tensor([data.gammas[i] for i in indices], device=self.denoiser.device)
        total = 0.0
        for rows in rows_of_calls(self.denoiser, self._adapted, conditions):
            part = len(rows) / len(indices)
            with self.denoiser.edited(self._edits(leaf[rows], gammas[rows])):
                loss, _ = denoising_loss(self.denoiser, _rows(ready, rows))
                (weight * part * loss).backward()  # inside: checkpointed blocks run again here
            total += part * float(loss.detach())
        assert leaf.grad is not None, "some branch is on in every picture"
        scales.backward(leaf.grad.to(scales.device))
        return total

    def _scales(self, phrases: Sequence[PhraseEmbeddings], without_concept: Tensor) -> Tensor:
        """(B, layers) on the CPU, with the encoder's gradient."""
        rows = torch.full((len(phrases),), self.encoder.row(self.concept))
        rows = rows.masked_fill(without_concept, UNKNOWN)
        content = torch.stack([self.encoder.embedded(one.content) for one in phrases])
        style = torch.stack([self.encoder.embedded(one.style) for one in phrases])
        return self.encoder(rows, content, style)

    def _pull(self, share: float) -> float:
        """The pull towards 1, over all pictures' phrases."""
        other = self.lessons.other.phrases if self.lessons.other else ()
        phrases = (*self.lessons.learned.phrases, *other)
        scales = self._scales(phrases, torch.zeros(len(phrases), dtype=torch.bool))
        loss = self.neutral_weight * (scales - 1).square().mean()
        (share * loss).backward()
        return float(loss.detach())

    def _edits(self, scales: Tensor, gammas: Tensor) -> dict[str, Edit]:
        """scales: (B, layers), gammas: (B, branches)."""
        pieces: dict[str, list[tuple[LayerUpdate, Tensor]]] = {}
        for j, branch in enumerate(self.branches):
            if not bool(gammas[:, j].any()):
                continue
            columns = self.encoder.columns(branch.role)
            for path, updates in branch.layers.items():
                weight = gammas[:, j] * branch.strength * scales[:, columns[path]]  # (B,)
                pieces.setdefault(path, []).extend((update, weight) for update in updates)
        return {path: scaled_branches(found) for path, found in pieces.items()}

    def settings(self) -> Mapping[str, str]:
        other = self.lessons.other
        return {
            "recipe": "expert_encoder",
            "content_loras": " ".join(self.concept.content),
            "style_loras": " ".join(self.concept.style),
            "layer_set": self.layer_set,
            "strengths": " ".join(f"{branch.strength:g}" for branch in self.branches),
            "layers": str(sum(map(len, self.encoder.layers.values()))),
            "base_model": self.base_model,
            "pictures": self.lessons.learned.digest(),
            "other_pictures": other.digest() if other else "",
            "batch_size": str(self.batch_size),
            "shift": str(self.moves.shift),
            "mirror": str(self.moves.mirror),
            "other_weight": f"{self.other_weight:g}" if other else "0",
            "neutral_weight": f"{self.neutral_weight:g}",
            "concept_dropout": f"{self.concept_dropout:g}",
        }

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """An expert encoder file; the LoRAs are named in it by their hashes, not stored."""
        own = {"craft_layer_set": self.layer_set}
        write_encoder(path, self.encoder, {**own, **metadata}, exclusive=True)


def _require_acting(data: Phrased, branches: Sequence[Branch]) -> None:
    """CraftError unless every caption switches on a branch that acts on some layer."""
    for one, gammas in zip(data.pictures.examples, data.gammas, strict=True):
        pairs = zip(gammas, branches, strict=True)
        if not any(gamma and branch.layers for gamma, branch in pairs):
            raise _teaches_nothing(
                f"The caption of {_named(one)} switches on no LoRA that acts on a layer"
            )


def _named(one: Example) -> str:
    return one.name or "a picture"


def _teaches_nothing(given: str) -> CraftError:
    return CraftError(
        given,
        "The encoder learns how much of a LoRA a phrase calls for, from captions with "
        "<c>...</c> for content LoRAs and <s>...</s> for style LoRAs",
        "Mark the phrases, or take the picture out",
    )


def scaled_branches(pieces: Sequence[tuple[LayerUpdate, Tensor]]) -> Edit:
    """base(x) + weight * what an update adds, for each (update, weight (B,)), row by row.

    One whose dW depends on the weight it meets has that of the layer's own weight here.
    """

    def edit(call: LayerCall) -> Tensor:
        axis = 1 if call.is_convolution else -1
        output = call.output
        for update, weight in pieces:
            taken = update.taken(lambda: call.weight().float())
            product = call.added(replace(update, **taken))
            added = update.scale * _by_row(weight, call.output) * product
            output = _added(output, added.to(output.dtype), update.rows, axis)
        return output

    return edit


def _by_row(weight: Tensor, output: Tensor) -> Tensor:
    """(B,) against (B, ...), or (B * frames, ...) where a layer sees frames one by one."""
    assert len(output) % len(weight) == 0, "a layer sees all rows, one after the other"
    weight = weight.repeat_interleave(len(output) // len(weight))
    return weight.reshape(-1, *[1] * (output.ndim - 1))


def _added(output: Tensor, update: Tensor, rows: tuple[int, int] | None, axis: int) -> Tensor:
    if rows is None:
        return output + update
    whole = output.clone()
    whole.narrow(axis, *rows).add_(update)
    return whole


def rows_of_calls(
    denoiser: Denoiser, layers: Iterable[str], conditions: Sequence[Condition]
) -> list[list[int]]:
    """Rows that may share a call while edits of these layers tell rows apart: those of one
    condition, as a Denoiser may split unlike ones into several calls, where an edit would not know
    whose rows it sees; and each alone where a layer does not see them one after the other."""
    if denoiser.needs_single_rows(layers):
        return [[row] for row in range(len(conditions))]
    groups: dict[int, list[int]] = {}
    for row, condition in enumerate(conditions):
        groups.setdefault(id(condition), []).append(row)
    return list(groups.values())


def _rows(batch: Noised, rows: Sequence[int]) -> Noised:
    chosen = list(rows)
    conditions = [batch.conditions[row] for row in chosen]
    return Noised(batch.latent[chosen], batch.x[chosen], batch.sigma[chosen], conditions)


def _frozen(branch: Branch, device: torch.device) -> Branch:
    """Copies of the updates on the model's device, out of autograd's sight."""

    def own(update: LayerUpdate) -> LayerUpdate:
        return update.mapped(lambda tensor: tensor.detach().to(device, copy=True))

    layers = {path: tuple(map(own, updates)) for path, updates in branch.layers.items()}
    return Branch(branch.name, branch.role, layers, branch.strength)


def _layers(branches: Sequence[Branch], role: Role, order: Mapping[str, object]) -> list[str]:
    """The layers of a role's branches: linear ones and convolutions in the model's order, then
    normalisations, which are none of a Denoiser's layers, in the files'."""
    adapted = dict.fromkeys(path for b in branches if b.role == role for path in b.layers)
    return [*(path for path in order if path in adapted), *(p for p in adapted if p not in order)]


def _text_width(lessons: Lessons) -> int:
    """How many numbers describe a phrase."""
    phrases = lessons.learned.phrases
    given = [e for one in phrases for e in (one.content, one.style) if e is not None]
    assert given, "a caption that switches a branch on has a phrase"
    return given[0].numel()
