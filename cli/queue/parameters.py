"""A job's settings in the words of AUTOMATIC1111's web UI, which galleries read from pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...craft_core.errors import plain
from .loras import loras_of
from .resources import called, lora_hashes, sampled_model, short_hash, with_loras
from .sampling import (
    ApiPrompt,
    SamplingFacts,
    above,
    input_value,
    is_plain,
    sampler_words,
    sampling_of,
    scheduler_words,
)

_TEXTS = ("text", "prompt", "text_g", "text_l", "string", "value")
_MOST = 20_000  # characters
_OURS = "CRAFT"  # how the names of our nodes begin
_MARKERS = re.compile(r"(^|[(\[{])?\s*(?:</?[cs]>\s*)+($|[,;.:!?)\]}])?", re.IGNORECASE)


def parameters_text(prompt: ApiPrompt, hashes: Mapping[str, str] | None = None) -> str:
    """`a cat <lora:ink:0.8>\\nNegative prompt: ...\\nSteps: 20, Sampler: Euler, ...`; empty where
    no node of the prompt samples from a seed. What is not found is left out.

    hashes: model file -> SHA-256, of those that are known.
    """
    sampling = sampling_of(prompt)
    if sampling is None:
        return ""
    loras = loras_of(prompt, sampling)
    lines = [with_loras(_text(prompt, sampling.positive), loras)]
    negative = _text(prompt, sampling.negative)
    if negative:
        lines.append(f"Negative prompt: {negative}")
    facts = _facts(prompt, sampling, hashes or {})
    facts["Lora hashes"] = lora_hashes(loras, hashes or {})
    shown = (f"{name}: {value}" for name, value in facts.items() if value is not None)
    return plain("\n".join([*lines, ", ".join(shown)]), _MOST)


def _facts(prompt: ApiPrompt, sampling: SamplingFacts, hashes: Mapping[str, str]) -> dict[str, Any]:
    model = sampled_model(prompt, sampling)
    return {
        "Steps": sampling.steps,
        "Sampler": sampler_words(sampling.sampler, sampling.scheduler),
        "Schedule type": scheduler_words(sampling.scheduler),
        "CFG scale": sampling.cfg,
        "Seed": sampling.seed,
        "Size": _size(prompt, sampling.latent),
        "Model hash": short_hash(model, hashes),
        "Model": called(model) if model else None,
    }


def _size(prompt: ApiPrompt, latent: Any) -> str | None:
    for _, inputs in above(prompt, latent):
        width, height = (input_value(prompt, inputs, name) for name in ("width", "height"))
        if is_plain(width) and is_plain(height):
            return f"{width}x{height}"
    return None


def _text(prompt: ApiPrompt, link: Any) -> str:
    """The first text above a link, in one paragraph, as the text encoder sees it."""
    is_marked = False
    for node, inputs in above(prompt, link):
        is_marked |= str(prompt[node].get("class_type", "")).startswith(_OURS)
        for name in _TEXTS:
            if isinstance(inputs.get(name), str):
                text = " ".join(inputs[name][:_MOST].split())
                return _without_markers(text) if is_marked else text
    return ""


def _without_markers(text: str) -> str:
    """As `craft_core.routing.parse(text).clean`, which needs torch."""

    is_paired = "</" in text

    def seam(gap: re.Match[str]) -> str:
        before, after = gap.groups()
        if before is not None or after is not None:
            return (before or "") + (after or "")
        return "" if is_paired and " " not in gap[0] else " "

    return _MARKERS.sub(seam, text)
