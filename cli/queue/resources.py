"""The model files of a prompt's sampling as galleries read them: names, strengths and hashes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ...client.answers import number
from ...client.facts import SUFFIXES, rows_on
from .sampling import (
    ApiPrompt,
    NodeInputs,
    SamplingFacts,
    above,
    input_value,
    is_plain,
    sampling_of,
)

_MODELS = ("ckpt_name", "unet_name", "model_name")
# Inputs that name a LoRA, and those that say how strong it is.
_LORAS = {
    "lora_name": "strength_model",
    "lora": "strength",
    "content_lora": "content_strength",
    "style_lora": "style_strength",
    "second_content_lora": "content_strength",
    "second_style_lora": "style_strength",
}
_ROWS = "loras"
_SYNTAX = re.compile(r'[:,"<>\s]+')  # what the text's own marks are made of
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHORT = 10  # digits of a file's SHA-256 by which galleries know it


def sampled_model(prompt: ApiPrompt, sampling: SamplingFacts) -> str | None:
    """The file of the nearest model that a node names."""
    for _, inputs in above(prompt, sampling.model):
        for name in _MODELS:
            if isinstance(inputs.get(name), str):
                return inputs[name]
    return None


def resource_files(prompt: ApiPrompt) -> tuple[list[str], list[str]]:
    """(LoRAs, models) that the text of a prompt names."""
    sampling = sampling_of(prompt)
    if sampling is None:
        return [], []
    model = sampled_model(prompt, sampling)
    return list(loras_of(prompt, sampling)), [model] if model else []


def loras_of(prompt: ApiPrompt, sampling: SamplingFacts) -> dict[str, float]:
    """File -> strength, of every LoRA that is not at 0; nearest first."""
    nodes = [*sampling.own, *(inputs for _, inputs in above(prompt, sampling.model))]
    found: dict[str, float] = {}
    for inputs in nodes:
        for file, strength in _loras_in(prompt, inputs):
            if strength and file.lower().endswith(SUFFIXES):
                found.setdefault(file, strength)
    return found


def _loras_in(prompt: ApiPrompt, inputs: NodeInputs) -> Iterator[tuple[str, float]]:
    for name, dial in _LORAS.items():
        if name.startswith("second_") and "second_model" not in inputs:
            continue
        if isinstance(inputs.get(name), str):
            yield inputs[name], _number(input_value(prompt, inputs, dial))
    for row in rows_on(inputs.get(_ROWS)):
        if isinstance(row.get("lora"), str):
            yield row["lora"], _number(row.get("strength"))


def _number(strength: Any) -> float:
    return number(strength) if is_plain(strength) and not isinstance(strength, str) else 1.0


def called(file: str) -> str:
    """A file's name without folder and ending, and without what would end it too early."""
    stem = PurePosixPath(file.replace("\\", "/")).stem
    return _SYNTAX.sub(" ", stem).strip()


def with_loras(text: str, loras: Mapping[str, float]) -> str:
    """A prompt's text with the LoRAs behind it that it does not name yet."""
    tags = [
        f"<lora:{called(file)}:{strength:g}>"
        for file, strength in loras.items()
        if f"<lora:{called(file)}:" not in text
    ]
    return " ".join([text, *tags]).strip()


def lora_hashes(loras: Mapping[str, float], hashes: Mapping[str, str]) -> str | None:
    """`"dog: 0123456789, ink: ..."` of the LoRAs whose hash is known."""
    known = [f"{called(file)}: {short}" for file in loras if (short := short_hash(file, hashes))]
    return json.dumps(", ".join(known), ensure_ascii=False) if known else None


def short_hash(file: str | None, hashes: Mapping[str, str]) -> str | None:
    """The first digits of a file's SHA-256, where that is known."""
    known = hashes.get(file or "", "")
    return known[:_SHORT] if _SHA256.fullmatch(known) else None
