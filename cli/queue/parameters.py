"""A job's settings in the words of AUTOMATIC1111's web UI, which galleries read from pictures."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ...craft_core.errors import plain

_Prompt = Mapping[str, Mapping[str, Any]]
_TEXTS = ("text", "prompt", "text_g", "text_l", "string", "value")
_MOST = 20_000  # characters
_OURS = "CRAFT"  # how the names of our nodes begin
_MARKERS = re.compile(r"(^|[(\[{])?\s*(?:</?[cs]>\s*)+($|[,;.:!?)\]}])?", re.IGNORECASE)
_MODELS = ("ckpt_name", "unet_name", "model_name")


def parameters_text(prompt: _Prompt) -> str:
    """`a cat\\nNegative prompt: ...\\nSteps: 20, Sampler: euler, ...`; empty where no node of the
    prompt has a seed and steps. What is not found is left out."""
    sampler = next(
        (one for one in _inputs(prompt) if _seed(one) is not None and "steps" in one), {}
    )
    if not sampler:
        return ""
    lines = [_text(prompt, sampler.get("positive"))]
    negative = _text(prompt, sampler.get("negative"))
    if negative:
        lines.append(f"Negative prompt: {negative}")
    size = next((one for _, one in _above(prompt, sampler.get("latent_image"))
                 if _is_plain(one.get("width")) and _is_plain(one.get("height"))), {})  # fmt: skip
    model = next((one[name] for _, one in _above(prompt, sampler.get("model"))
                  for name in _MODELS if isinstance(one.get(name), str)), None)  # fmt: skip
    facts = {
        "Steps": sampler["steps"],
        "Sampler": sampler.get("sampler_name"),
        "Schedule type": sampler.get("scheduler"),
        "CFG scale": sampler.get("cfg"),
        "Seed": _seed(sampler),
        "Size": f"{size['width']}x{size['height']}" if size else None,
        "Model": PurePosixPath(model.replace("\\", "/")).stem if model else None,
    }
    shown = (f"{name}: {value}" for name, value in facts.items() if _is_plain(value))
    return plain("\n".join([*lines, ", ".join(shown)]), _MOST)


def _inputs(prompt: _Prompt) -> Iterator[Mapping[str, Any]]:
    return (node["inputs"] for node in prompt.values())


def _seed(inputs: Mapping[str, Any]) -> Any:
    return next(
        (inputs[name] for name in ("seed", "noise_seed") if _is_plain(inputs.get(name))), None
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _text(prompt: _Prompt, link: Any) -> str:
    """The first text above a link, in one paragraph, as the text encoder sees it."""
    is_marked = False
    for node, inputs in _above(prompt, link):
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


def _above(prompt: _Prompt, link: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, inputs) of the node that a link comes from, and of those above it, nearest first."""
    waiting, seen = deque([link]), set()
    while waiting:
        link = waiting.popleft()
        node = link[0] if isinstance(link, list) and link and isinstance(link[0], str) else None
        if node is None or node in seen or node not in prompt:
            continue
        seen.add(node)
        inputs = prompt[node]["inputs"]
        yield node, inputs
        waiting += inputs.values()
