"""What a merge of LoRAs is learned from: the files, and the pictures they were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.lora import unet_diffusers_paths
from ...craft_core.lora.text_encoder import TextPart, merge_text_encoders
from ...craft_core.registry import Method
from ...craft_core.routing.markers import parse
from ...craft_core.routing.plan import fault_lines, inactive, require_matched, unmatched_keys
from ...craft_core.routing.resolution import BOUNDARY, latent_resolutions
from ...craft_core.training import Dataset, MergePart, Merging, Prompt
from ...craft_core.training.merge import beside_weights, require_mergeable
from ...craft_core.training.registry import DTYPES
from ...craft_core.training.slots import TEXT, UNMATCHED
from ...craft_core.types import ROLES, LoraFile, Role
from ..engine.modules import model_layers
from ..model.expert_encoder import lora_hash
from ..model.lora_files import (
    BranchFile,
    TextFit,
    branch,
    patch_text_encoder,
    read_branch_file,
    text_fit,
)
from .data import ExampleEncoder, dataset, marked_captions, training_images
from .train import CANCEL, Captioned, FilledSlots, ModelParts, Prepared, identity, is_mirrored


@dataclass(frozen=True)
class Merge:
    """What is to be merged, and by which learned method.

    pictures: by role, what its LoRAs were trained on, in the order of the LoRAs and as many for
    each. fused_prompt: the contents in the style, a line for each content LoRA or one for all; ""
    for none. allow_unmatched: go without the keys of the files that match nothing.
    """

    files: Sequence[BranchFile]
    pictures: Mapping[Role, Captioned]
    fused_prompt: str
    method: Method
    knobs: Mapping[str, Any]
    allow_unmatched: bool = False


def read_merging(
    source: ModelParts, method: Method, filled: FilledSlots, settings: Mapping[str, Any]
) -> Prepared:
    """The LoRAs and their pictures, as a learned merge takes them."""
    pictures = {role: filled.pictures[role] for role in ROLES}
    merge = Merge(
        filled.loras, pictures, filled.choices[TEXT], method, settings, filled.choices[UNMATCHED]
    )
    merge.method.traits.prompt(merge.knobs, bool(merge.fused_prompt.strip()))
    files = [read_branch_file(one, source.model, merge.allow_unmatched) for one in merge.files]
    branches = [branch(chosen, file) for chosen, file in zip(merge.files, files, strict=True)]
    require_mergeable(branches)
    merge.method.traits.loras(branches, [file.metadata for file in files])
    texts = _Texts(source, merge.files, files, merge.allow_unmatched, is_mirrored(merge.knobs))
    notes = _unused(merge, files, texts.fits)
    # Merged once before the training: a CraftError now, not at its end.
    notes += texts.part([1.0] * len(files), DTYPES[merge.knobs["save_as"]]).notes()
    data = texts.pictures(merge.pictures)
    parts = tuple(
        MergePart(own, data[j], lora_hash(merge.files[j]), file.metadata)
        for j, (own, file) in enumerate(zip(branches, files, strict=True))
    )
    content_layers, style_layers = dominated(model_layers(source.model))
    merging = Merging(
        parts, texts.fused(merge.fused_prompt), content_layers, style_layers, texts.merged
    )
    data = merging, identity(source.model)
    return Prepared(lambda denoiser: data, notes)


def dominated(layers: Mapping[str, tuple[int, ...]]) -> tuple[frozenset[str], frozenset[str]]:
    """The layers content and style dominate by DuoLoRA's prior; none where a model is no UNet."""
    if not unet_diffusers_paths(layers):
        return frozenset(), frozenset()
    sides = latent_resolutions(layers)
    content = frozenset(path for path, side in sides.items() if side < BOUNDARY)
    return content, frozenset(sides) - content


def _unused(merge: Merge, files: Sequence[LoraFile], fits: Sequence[TextFit]) -> list[str]:
    """Report lines on what is not used; CraftError for keys that match nothing, unless allowed.

    fits: how each file's text-encoder part meets the text encoder.
    """
    faults = [
        fault
        for chosen, file, text in zip(merge.files, files, fits, strict=True)
        for fault in [
            *unmatched_keys(chosen.name, (*file.unmatched, *text.unknown)),
            *inactive(chosen.name, (*file.faults, *text.faults)),
            *_beside_weights(chosen, file),
        ]
    ]
    require_matched(faults, merge.allow_unmatched)
    own = [chosen.name for chosen in merge.files if chosen.layers]
    notes = [f"Own layers of {name}: not used, a merge takes whole LoRAs" for name in own]
    for chosen, file in zip(merge.files, files, strict=True):
        notes += [f"{chosen.name}: {note}" for note in file.notes]
    return notes + fault_lines(faults)


def _beside_weights(chosen: BranchFile, file: LoraFile) -> list[str]:
    count = beside_weights(branch(chosen, file))
    told = f"{chosen.name}: {count} differences of biases and normalisations, which no merge learns"
    return [told] if count else []


class _Texts:
    """Captions as each LoRA learnt them: with its own text-encoder part on the CLIP, if it has one.

    A fused prompt is read with those of its content LoRA and of the style. fits: how each file's
    part meets the text encoder; what cannot act is left out. allow: leave out what else cannot be
    merged, too. mirror: as dataset has it.
    """

    def __init__(
        self,
        source: ModelParts,
        chosen: Sequence[BranchFile],
        files: Sequence[LoraFile],
        allow: bool = False,
        mirror: bool = False,
    ) -> None:
        self.allow, self.mirror = allow, mirror
        ExampleEncoder(source.model, source.clip, source.vae)  # or a CraftError: there are both
        self.source, self.chosen = source, chosen
        self.fits = [text_fit(source.clip, file) for file in files]
        self.files = [
            replace(file, text_encoder=fit.state)
            for file, fit in zip(files, self.fits, strict=True)
        ]

    def pictures(self, given: Mapping[Role, Captioned]) -> dict[int, Dataset]:
        """Each LoRA's pictures, by its number."""
        found: dict[int, Dataset] = {}
        for role in ROLES:
            own = self._of(role)
            dealt = _dealt(given[role], role, len(own)) if own else []
            for j, (images, captions) in zip(own, dealt, strict=True):
                what = role if len(own) == 1 else f"{role} ({self.chosen[j].name})"
                encoder = self._encoder([j])
                found[j] = dataset(encoder, images, captions, what, CANCEL, self.mirror)
        return found

    def fused(self, text: str) -> tuple[Prompt, ...]:
        """A prompt for each content LoRA; none for an empty text."""
        contents, styles = self._of("content"), self._of("style")
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines or not contents:
            return ()
        lines = lines * len(contents) if len(lines) == 1 else lines
        if len(lines) != len(contents):
            raise CraftError(
                f"fused_prompt has {len(lines)} lines for {len(contents)} content LoRAs",
                "There is one for each content LoRA, or one for all",
                f"Write {len(contents)} lines, in the order of the LoRAs",
            )
        lines = [parse(line).clean.strip() for line in lines]
        return tuple(
            Prompt(line, self._encoder([j, *styles]).condition(line))
            for line, j in zip(lines, contents, strict=True)
        )

    def part(self, shares: Sequence[float], dtype: torch.dtype) -> TextPart:
        """The text-encoder part of the merged file."""
        pairs = zip(self.chosen, shares, strict=True)
        strengths = [chosen.strength * share for chosen, share in pairs]
        return merge_text_encoders(self.files, strengths, dtype, self.allow)

    def merged(self, shares: Sequence[float], dtype: torch.dtype) -> Mapping[str, Tensor]:
        """The tensors of `part`."""
        return self.part(shares, dtype).tensors

    def _of(self, role: Role) -> list[int]:
        return [j for j, chosen in enumerate(self.chosen) if chosen.role == role]

    def _encoder(self, active: Sequence[int]) -> ExampleEncoder:
        clip = self.source.clip
        for j in active:
            clip = patch_text_encoder(clip, self.files[j], self.chosen[j].strength)
        return ExampleEncoder(self.source.model, clip, self.source.vae)


def _dealt(given: Captioned, role: Role, count: int) -> list[tuple[list[Tensor], list[str]]]:
    """(images, captions) for each of a role's LoRAs: as many for each, in order."""
    images = training_images(given.images, role)
    marked = marked_captions(given.captions, len(images), role)
    captions = [" ".join(one.clean.split()) for one in marked]
    each, over = divmod(len(images), count)
    if over:
        raise CraftError(
            f"There are {len(images)} {role} images for {count} {role} LoRAs",
            "They are dealt in the order of the LoRAs, as many for each",
            f"Connect {count} images, or {2 * count}, ...",
        )
    starts = range(0, len(images), each)
    return [(images[at : at + each], captions[at : at + each]) for at in starts]
