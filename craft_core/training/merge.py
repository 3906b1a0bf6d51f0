"""What the learned merges share: the LoRAs to merge, what they were trained for, the saved file.

A learned merge finds, by distillation, how much of each LoRA's pieces to keep where several act at
once: the merged model is to answer each LoRA's own pictures as the model with that LoRA alone does.
LoRAs stay frozen; the result is an ordinary LoRA file with everything folded into its factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CraftError
from ..lora import combine, kohya_stems, write_lora
from ..lora.factors import rounded
from ..types import Branch, Factors, LayerShapes, LayerUpdate, Role
from .data import Dataset, Moves, batch, choose
from .denoiser import Condition, Denoiser, Edit, LayerCall
from .losses import Noised, noised
from .slots import DataSlots, LoraSlot, PictureSlot, TextSlot, UnmatchedSlot

Update = Mapping[str, Factors]  # a LoRA's one update of each layer, its strength in the scale
TextEncoders = Callable[[Sequence[float], torch.dtype], Mapping[str, Tensor]]


def _no_text_encoders(shares: Sequence[float], dtype: torch.dtype) -> Mapping[str, Tensor]:
    return {}


@dataclass(frozen=True)
class MergePart:
    """One LoRA of a merge. branch: its strength counts. pictures: what it was trained for, under
    its own captions. source: the SHA-256 of its file. metadata: the file's."""

    branch: Branch
    pictures: Dataset
    source: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A text and the condition a Denoiser reads it as."""

    text: str
    condition: Condition


@dataclass(frozen=True)
class Merging:
    """What a learned merge is given, whichever it is.

    fused: for each content LoRA in order, the prompt of its content in the style ("a sks dog in
    zwx style"); empty where none was given. content_layers, style_layers: the layers in which the
    one or the other is known to dominate; a layer may be in neither. text_encoder: (a share for
    each part, dtype) -> the tensors of their text encoders' parts, merged at those shares of their
    strengths, by the keys the file has them under.
    """

    parts: tuple[MergePart, ...]
    fused: tuple[Prompt, ...] = ()
    content_layers: frozenset[str] = frozenset()
    style_layers: frozenset[str] = frozenset()
    text_encoder: TextEncoders = _no_text_encoders

    def __post_init__(self) -> None:
        contents = sum(part.branch.role == "content" for part in self.parts)
        assert len(self.fused) in (0, contents), "a fused prompt for each content LoRA, or none"
        assert not self.content_layers & self.style_layers, "one role dominates a layer"
        require_mergeable([part.branch for part in self.parts])

    def of(self, role: Role) -> tuple[int, ...]:
        """The numbers of a role's parts."""
        return tuple(j for j, part in enumerate(self.parts) if part.branch.role == role)

    def name(self, j: int) -> str:
        """A part by its role, and by its number in it where it is not the only one."""
        role = self.parts[j].branch.role
        own = self.of(role)
        return role if len(own) == 1 else f"{role} {own.index(j) + 1}"

    def settings(self) -> dict[str, str]:
        """What is merged, for the file's metadata: a training resumes with the same."""
        return {
            "loras": " ".join(part.branch.name for part in self.parts),
            "roles": " ".join(part.branch.role for part in self.parts),
            "strengths": " ".join(f"{part.branch.strength:g}" for part in self.parts),
            "sources": " ".join(part.source for part in self.parts),
            "pictures": " ".join(part.pictures.digest() for part in self.parts),
            "fused_prompts": "; ".join(prompt.text for prompt in self.fused),
        }


def require_mergeable(branches: Sequence[Branch]) -> None:
    """CraftError unless there are two LoRAs or more, each has layers, and one has a strength."""
    if len(branches) < 2:
        raise CraftError(
            f"A merge was given {len(branches)} LoRA" + "s" * (not branches),
            "It is learned of two or more, content and style",
            "Add the other LoRA to branches",
        )
    for branch in branches:
        if not branch.layers:
            raise CraftError(
                f"{branch.name} adapts no layer of this model",
                "A merge is learned on the layers the LoRAs adapt",
                "Choose a LoRA made for this model, and not one of a text encoder alone",
            )
    require_any_strength([branch.strength for branch in branches])


def require_any_strength(strengths: Sequence[float]) -> None:
    """CraftError if nothing would be merged."""
    if not any(strengths):
        raise CraftError(
            "All LoRAs have the strength 0",
            "LoRAs are merged at their strengths, so this merge would do nothing",
            "Set a strength, usually 1",
        )


def require_typed(strengths: Sequence[float]) -> None:
    """CraftError unless a command names two LoRAs or more, and one has a strength."""
    if len(strengths) < 2:
        raise CraftError(
            f"There is {len(strengths) or 'no'} LoRA to merge",
            "A merge is learned of two or more, content and style",
            "Name a --content-lora and a --style-lora",
        )
    require_any_strength(strengths)


MERGE_SLOTS = DataSlots(
    command="merge",
    summary="Learn to merge content and style LoRAs into one, from the pictures they were made of.",
    usage="--checkpoint FILE --method WHICH --content-lora FILE --style-lora FILE "
    "--content FILE ... --style FILE ... [flags]",
    example=(
        "--checkpoint sd_xl_base_1.0.safetensors --method duo_lora",
        "--content-lora dog_00001_.safetensors --style-lora ink_00001_.safetensors",
        "--content dog.png --content-caption 'a photo of sks dog'",
        "--style ink.png --style-caption 'a house in zwx style'",
        "--fused-prompt 'a sks dog in zwx style' --size 1024x1024 --name dog_in_ink",
    ),
    slots=(
        LoraSlot(
            "The LoRAs to merge, from LoRA List, Load LoRA Branch or Train Content/Style LoRA; "
            "their strengths count.",
            require_typed,
        ),
        TextSlot(
            "fused_prompt",
            "The content in the style, in the LoRAs' own words, such as 'a sks dog in zwx style'; "
            "one for all content LoRAs, or repeated for each. DuoLoRA needs it for its cycles.",
            "The content in the style, in the LoRAs' own words; a line for each content LoRA, or "
            "one for all. DuoLoRA needs it for its cycles, others do not.",
            "a sks dog in zwx style",
        ),
        UnmatchedSlot(
            "Go without the LoRA keys that match nothing; they are reported.",
            "Off: LoRA keys that match nothing are an error. On: they are listed in the report "
            "and left out.",
        ),
        PictureSlot(
            "content",
            "content",
            "What the content LoRA was trained on; for several content LoRAs as many for each, "
            "in their order.",
            "What the content LoRA was trained on. For several content LoRAs as many for each, "
            "in their order.",
            "a photo of a sks dog",
        ),
        PictureSlot(
            "style",
            "style",
            "What the style LoRA was trained on.",
            "What the style LoRA was trained on.",
            "a house in zwx style",
        ),
    ),
    save_name="craft/merged",
    state="{method}",
    reader="merging",
)


def weight_updates(branch: Branch) -> dict[str, list[LayerUpdate]]:
    """What a LoRA does to linear layers and convolutions, by module path."""
    found = {
        path: [one for one in updates if one.inputs] for path, updates in branch.layers.items()
    }
    return {path: updates for path, updates in found.items() if updates}


def beside_weights(branch: Branch) -> int:
    """How many biases and normalisations a LoRA changes: a learned merge leaves them out."""
    return sum(not one.inputs for updates in branch.layers.values() for one in updates)


def frozen_updates(part: MergePart, denoiser: Denoiser) -> dict[str, Factors]:
    """The part's layers in the model's order, each as one update on the model's device.

    The branch's strength goes into the scale; slices of a fused layer become one update of all its
    rows. float32, out of autograd's sight. What the LoRA does to biases and normalisations is not
    among them (`beside_weights`). CraftError for a layer whose update has full rank.
    """
    layers = weight_updates(part.branch)
    found = {}
    for path, shape in denoiser.layers.items():
        if path in layers:
            if not all(update.is_low_rank for update in layers[path]):
                raise CraftError(
                    f"The update of {path} in {part.branch.name} has full rank",
                    "A merge is learned on low-rank factors, and those of full rank are no smaller "
                    "than the layer",
                    "Cut it to a rank with Fuse LoRAs to File (one branch, a rank above 0), and "
                    "merge that file",
                )
            one = combine(layers[path], shape[0])
            down, up = (t.detach().to(denoiser.device, torch.float32, copy=True)
                        for t in (one.down, one.up))  # fmt: skip
            found[path] = Factors(down, up, one.scale * part.branch.strength)
    return found


def update_edits(updates: Sequence[Update]) -> dict[str, Edit]:
    """The layers with fixed updates on them: LoRAs as they are."""
    paths = dict.fromkeys(path for one in updates for path in one)

    def edit(path: str) -> Edit:
        found = [one[path] for one in updates if path in one]
        return summed_edit(lambda: found)

    return {path: edit(path) for path in paths}


def summed_edit(pieces: Callable[[], Sequence[Factors]]) -> Edit:
    """base(x) + the sum of scale * up (down x).

    pieces: asked at each call, so that what they are made of is differentiated where checkpointed
    blocks run again.
    """

    def edit(call: LayerCall) -> Tensor:
        output = call.output
        for one in pieces():
            update = call.low_rank(one.down, one.up)
            output = output + one.scale * update.to(output.dtype)
        return output

    return edit


def drawn(
    denoiser: Denoiser, data: Dataset, size: int, moves: Moves, generator: torch.Generator
) -> Noised:
    """A batch of a part's pictures, noised."""
    chosen = [data.examples[i] for i in choose(data.examples, size, generator)]
    latents, conditions = batch(chosen, moves, generator)
    return noised(denoiser, latents, conditions, generator)


def answer(denoiser: Denoiser, ready: Noised, updates: Update) -> Tensor:
    """`denoised` (B, C, *spatial) of the model with one LoRA alone, without gradients."""
    with torch.no_grad(), denoiser.edited(update_edits([updates])):
        return denoiser.denoise(ready.x, ready.sigma, ready.conditions)


def output_error(denoiser: Denoiser, denoised: Tensor, wanted: Tensor, sigma: Tensor) -> Tensor:
    """(B,): mean squared difference of the network's own outputs."""
    error = (denoised - wanted).square().flatten(1).mean(1)
    return denoiser.loss_weight(sigma) * error


def write_merged(
    path: Path,
    merging: Merging,
    layers: Mapping[str, Sequence[Factors]],
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    shares: Sequence[float] = (),
    *,
    model: LayerShapes,
) -> None:
    """An ordinary LoRA: the updates of a layer side by side, in kohya's names.

    model: all its layers. shares: how much of each part's text encoder there is, all of it by
    default. CraftError for numbers that `dtype` cannot hold; Taken where there is a file.
    """
    text_encoder = merging.text_encoder(shares or [1.0] * len(merging.parts), dtype)
    stored = {}
    for name, updates in layers.items():
        one = combine(updates)
        learned = Factors(one.down.detach().cpu(), one.up.detach().cpu(), one.scale)
        stored[name] = rounded(learned, name, dtype)
    own = {"ss_network_module": "networks.lora", "craft_role": "content"}
    told = {**own, **metadata}
    write_lora(path, stored, text_encoder, told, stems=kohya_stems(model), exclusive=True)
