"""Expert encoders in the host: their files, the phrases as numbers, the scales for a Router.

CRAFT-LoRA (2026), arXiv:2602.18936, App. B.1. A phrase is described by the pooled output of the
connected CLIP, without any LoRA's text-encoder part. A text encoder that has none (T5 and other
language models give nothing, or zeros) describes it by the mean over the phrase's own tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import folder_paths
import torch
from torch import Tensor

from ...craft_core.encoder.file import read_encoder
from ...craft_core.encoder.network import (
    UNKNOWN,
    Concept,
    ExpertEncoder,
    PhraseEmbeddings,
    scale_table,
)
from ...craft_core.errors import CraftError
from ...craft_core.routing.markers import MarkedPrompt, phrase_text
from ...craft_core.types import ROLES, Bank
from ..living import in_use, let_stay
from .encoded_text import described
from .host_files import path_by_name
from .lora_files import BranchFile, require
from .stamps import file_stamp, hash_of

FOLDER = "craft_encoders"


@dataclass(frozen=True, eq=False)
class EncoderFile:
    """What is in an expert encoder's file. One that a living MODEL uses is not read again."""

    encoder: ExpertEncoder
    metadata: Mapping[str, str]


_in_use: WeakValueDictionary[tuple, EncoderFile] = in_use()


@dataclass(frozen=True)
class Applied:
    """table: (layers, branches) of scales, in the bank's order. lines: for the report. file: for
    the MODEL to hold, so that the next one finds it."""

    table: Tensor | None = None
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    file: EncoderFile | None = None


def apply_encoder(
    name: str, clip: Any, marked: MarkedPrompt, files: Sequence[BranchFile], bank: Bank
) -> Applied:
    """The encoder file's scales of the bank's layers for this prompt and these LoRAs.

    files: the bank's branches, as chosen. CraftError if the encoder lacks one of their layers.
    """
    file = _read_once(encoder_path(name))
    encoder, own = file.encoder, concept(files)
    try:
        table = scale_table(encoder.scales(own, phrases(clip, marked)), bank)
    except CraftError as error:
        layer_set = file.metadata.get("craft_layer_set")
        possible = error.possible + (f" (layer set: {layer_set})" if layer_set else "")
        raise CraftError(f"{name}: {error.given}", possible, error.action) from error
    known = encoder.row(own) != UNKNOWN
    fit = "these LoRAs are its own" if known else "it was trained with other LoRAs"
    lines = [f"Expert encoder {name}: {fit}", *_scale_lines(table, bank)]
    warning = (
        f"The expert encoder {name} was trained with other LoRA files than these; its scales go "
        "by the phrases alone.",
    )
    return Applied(table, tuple(lines), () if known else warning, file)


def _read_once(path: str) -> EncoderFile:
    key = file_stamp(path)
    found = _in_use.get(key)
    if found is None:
        with torch.inference_mode(False):  # the check before a run reads it, too
            found = _in_use[key] = EncoderFile(*read_encoder(path))
    return found


def _scale_lines(table: Tensor, bank: Bank) -> list[str]:
    lines = []
    for j, branch in enumerate(bank.branches):
        own = [table[i, j].item() for i, path in enumerate(bank.layers) if path in branch.layers]
        scales = "off"
        if own:
            mean = sum(own) / len(own)
            scales = f"{min(own):.3g} to {max(own):.3g}, mean {mean:.3g}, on {len(own)} layers"
        lines.append(f"{branch.role} {branch.name}: expert scales {scales}")
    return lines


def concept(files: Sequence[BranchFile]) -> Concept:
    """Which LoRAs act together, by what is in their files."""
    return Concept.of([(file.role, lora_hash(file)) for file in files])


def lora_hash(file: str | BranchFile) -> str:
    """SHA-256 of a LoRA file, read again only when the file has changed."""
    return hash_of(require(file))


def phrases(clip: Any, marked: MarkedPrompt) -> PhraseEmbeddings:
    """The marked phrases as the CLIP describes them; None where a role has none."""
    texts = [phrase_text(marked, role) for role in ROLES]
    return PhraseEmbeddings(*(embedding(clip, text) if text else None for text in texts))


def embedding(clip: Any, text: str) -> Tensor:
    """(width,) float32 on the CPU: the pooled output, or the mean over the phrase's tokens; found
    once for a text while the CLIP is in use."""
    found = described(clip, text, _embedding)
    with torch.inference_mode(False):  # trainings take what a Router has encoded
        return found.clone()


def _embedding(clip: Any, text: str) -> Tensor:
    tokens = clip.tokenize(text)
    hidden, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    if pooled is not None and bool(pooled.any()):
        return pooled[0].flatten().float().cpu()
    hidden = hidden[0].float().cpu()  # (tokens, width)
    return hidden[_own_positions(tokens, clip.tokenize(""), len(hidden))].mean(0)


def _own_positions(tokens: dict, empty: dict, length: int) -> Tensor:
    """(length,) which positions hold words: no start, end or padding, as an empty text has.

    All of them where no token list of the text encoder has that length, or it has no words.
    """
    for key, chunks in tokens.items():
        ids = [pair[0] for chunk in chunks for pair in chunk]
        special = {pair[0] for chunk in empty[key] for pair in chunk}
        words = torch.tensor([one not in special for one in ids])
        if len(ids) == length and bool(words.any()):
            return words
    return torch.ones(length, dtype=torch.bool)


def encoder_files() -> list[str]:
    """Names of the files in models/craft_encoders, output/craft_encoders and further folders."""
    _register_folder()
    return folder_paths.get_filename_list(FOLDER)


def encoder_path(name: str) -> str:
    """Full path of an encoder file by its name; CraftError if it is not there."""
    _register_folder()
    path = path_by_name(FOLDER, name)
    if path is None:
        raise CraftError(
            f"There is no expert encoder file {name!r}",
            "Expert encoders are .safetensors files in models/craft_encoders or "
            "output/craft_encoders",
            "Train one, or put one there and refresh the page",
        )
    return path


def require_encoder(name: str) -> None:
    """CraftError unless `name` is an expert encoder file, whole and readable."""
    _read_once(encoder_path(name))


def encoder_stamp(name: str) -> str:
    """A text that changes when the file of that name changes."""
    let_stay()
    return " ".join(map(str, file_stamp(encoder_path(name))[1:]))


def _register_folder() -> None:
    """Make models/craft_encoders, and output/craft_encoders where trainings save, known to the
    host, beside any folder the user's paths file adds."""
    for root in (folder_paths.models_dir, folder_paths.get_output_directory()):
        folder_paths.add_model_folder_path(FOLDER, os.path.join(root, FOLDER))
    folder_paths.folder_names_and_paths[FOLDER][1].add(".safetensors")
