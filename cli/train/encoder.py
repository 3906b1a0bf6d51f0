"""`train encoder`: how much of each LoRA's layers a prompt's phrases call for."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace

from ...craft_core.errors import CraftError
from ...craft_core.requests import EncoderData, Expert
from ...craft_core.training import TRAINING
from ...craft_core.types import ROLES
from ..command import PROGRAM, Command
from ..knob_flags import add_knob_flags, knobs_of
from .common import (
    TRAINED,
    add_layer_sets_flag,
    add_picture_flags,
    add_size_flag,
    add_training_flags,
    epilog,
    job,
    layer_sets,
    pictures,
    run,
)

RECIPE = TRAINING["expert_encoder"]


def add_lora_flags(parser: ArgumentParser) -> None:
    """--content-lora and --style-lora, each with a strength if the user likes."""
    for role in ROLES:
        parser.add_argument(
            f"--{role}-lora", nargs="+", action="append", default=[], metavar=("FILE", "STRENGTH"),
            help=f"A {role} LoRA by its name in ComfyUI's loras or its path, and its strength "
            "(1 where none is given); may be repeated.",
        )  # fmt: skip


def _add_flags(parser: ArgumentParser) -> None:
    add_lora_flags(parser)
    add_layer_sets_flag(parser, TRAINED)
    parser.add_argument(
        "--allow-unmatched", action="store_true",
        help="Go without the LoRA keys and layer patterns that match nothing; they are reported.",
    )  # fmt: skip
    add_size_flag(parser)
    add_picture_flags(
        parser, "images", "What the LoRAs were trained for. Captions mark their phrases: "
        "'<c>a sks dog</c> in <s>watercolor style</s>'.", required=True,
    )  # fmt: skip
    add_picture_flags(
        parser, "other", "Other contents and styles, on which LoRAs that do not belong there "
        "learn to step back; captions marked too.", required=False,
    )  # fmt: skip
    add_knob_flags(parser, RECIPE)
    add_training_flags(parser, "craft/encoder", basis=True)


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


def _run(options: Namespace) -> None:
    data = EncoderData(
        pictures(options, "images"), pictures(options, "other"), experts(options),
        layer_sets(options.layer_sets, TRAINED), options.allow_unmatched,
    )  # fmt: skip
    if not data.experts:
        raise CraftError(
            "There is neither a --content-lora nor a --style-lora",
            "An encoder learns how much of each LoRA a phrase calls for",
            "Name the LoRAs it is for",
        )
    own, knobs = job(options), knobs_of(options, RECIPE)
    run(options, lambda host, watch: host.train_encoder(own, data, knobs, watch))


COMMAND = Command(
    ("train", "encoder"),
    RECIPE.summary,
    "--checkpoint FILE --images FILE ... --content-lora FILE --style-lora FILE [flags]",
    _add_flags,
    _run,
    epilog(
        (
            f"{PROGRAM} train encoder --checkpoint sd_xl_base_1.0.safetensors",
            "--content-lora dog_00001_.safetensors --style-lora ink_00001_.safetensors",
            "--images dog.png --caption '<c>a sks dog</c> in <s>ink style</s>'",
            "--size 1024x1024 --name dog_in_ink",
        )
    ),
)
