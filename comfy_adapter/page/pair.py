"""The widgets of a pair: a content LoRA and a style LoRA, and a dial for each."""

from __future__ import annotations

from comfy_api.latest import io

from ..model.lora_files import NONE, SAME, lora_choices


def pair_inputs(content_dial: str, style_dial: str, start: float) -> list[io.Input]:
    """content_dial, style_dial: what the strengths do, for their tooltips. start: their values."""
    files = [NONE, *lora_choices()]
    strength = {"default": start, "min": -10.0, "max": 10.0, "step": 0.05}
    return [
        io.Combo.Input(
            "content_lora", options=files, tooltip="What is shown. A file of models/loras."
        ),
        io.Combo.Input(
            "style_lora", options=files, tooltip="How it is shown. A file of models/loras."
        ),
        io.Float.Input("content_strength", tooltip=content_dial, **strength),
        io.Float.Input("style_strength", tooltip=style_dial, **strength),
    ]


def second_file_input(name: str, tooltip: str) -> io.Input:
    """A LoRA file for a second MODEL."""
    return io.Combo.Input(
        name, options=[SAME, NONE, *lora_choices()], default=SAME, optional=True, advanced=True,
        tooltip=tooltip,
    )  # fmt: skip
