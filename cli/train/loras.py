"""The flags that name LoRAs, with their strengths."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace

from ...craft_core.errors import CraftError
from ...craft_core.requests import Expert
from ...craft_core.types import ROLES


def add_lora_flags(parser: ArgumentParser) -> None:
    """--content-lora and --style-lora, each with an optional strength."""
    for role in ROLES:
        parser.add_argument(
            f"--{role}-lora", nargs="+", action="append", default=[], metavar=("FILE", "STRENGTH"),
            help=f"A {role} LoRA by its name in ComfyUI's loras or its path, and its strength "
            "(1 where none is given); may be repeated.",
        )  # fmt: skip


def experts(options: Namespace) -> tuple[Expert, ...]:
    """The LoRAs, content before style; CraftError for a strength that is no number."""
    return tuple(
        Expert(given[0], role, _strength(role, given))
        for role in ROLES
        for given in getattr(options, f"{role}_lora")
    )


def _strength(role: str, given: list[str]) -> float:
    try:
        (strength,) = (float(text) for text in given[1:] or ["1"])
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise CraftError(
            f"--{role}-lora {' '.join(given)}",
            "It takes a LoRA file and, if you like, its strength, such as 0.8",
            f"Give one number at most; for another LoRA repeat --{role}-lora",
        )
    return strength
