"""The model files of a prompt's sampling as galleries read them: names, strengths and hashes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from .loras import loras_of
from .sampling import ApiPrompt, SamplingFacts, above, sampling_of

_MODELS = ("ckpt_name", "unet_name", "model_name")
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


def called(file: str) -> str:
    """A file's name without folder and ending, and without what would end it too early."""
    stem = PurePosixPath(file.replace("\\", "/")).stem
    return _SYNTAX.sub(" ", stem).strip()


def with_loras(text: str, loras: Mapping[str, float | None]) -> str:
    """A prompt's text with the LoRAs behind it that it does not name yet and whose strength is
    known."""
    tags = [
        f"<lora:{called(file)}:{strength:g}>"
        for file, strength in loras.items()
        if strength is not None and f"<lora:{called(file)}:" not in text
    ]
    return " ".join([text, *tags]).strip()


def lora_hashes(loras: Iterable[str], hashes: Mapping[str, str]) -> str | None:
    """`"dog: 0123456789, ink: ..."` of the LoRAs whose hash is known."""
    known = [f"{called(file)}: {short}" for file in loras if (short := short_hash(file, hashes))]
    return json.dumps(", ".join(known), ensure_ascii=False) if known else None


def short_hash(file: str | None, hashes: Mapping[str, str]) -> str | None:
    """The first digits of a file's SHA-256, where that is known."""
    known = hashes.get(file or "", "")
    return known[:_SHORT] if _SHA256.fullmatch(known) else None
