"""`train lora`: a content or a style LoRA, on its own layers alone."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ...craft_core.requests import LoraData
from ...craft_core.routing.presets import OF_MODEL
from ...craft_core.training import TRAINING
from ...craft_core.types import ROLES
from ..command import PROGRAM, Command
from ..knob_flags import add_knob_flags, knobs_of
from .common import (
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

RECIPE = TRAINING["lora"]


def _add_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--role", choices=ROLES, required=True,
        help="content learns on the content layers, style on the style layers.",
    )  # fmt: skip
    add_layer_sets_flag(parser, OF_MODEL)
    add_size_flag(parser)
    add_picture_flags(parser, "images", "What to learn; one picture is enough.", required=True)
    add_picture_flags(
        parser, "prior", "Pictures to leave as they are (prior preservation), such as other dogs "
        "made by the model itself.", required=False,
    )  # fmt: skip
    add_knob_flags(parser, RECIPE)
    add_training_flags(parser, "craft/lora", basis=True)


def _run(options: Namespace) -> None:
    data = LoraData(
        pictures(options, "images"), pictures(options, "prior"), options.role,
        layer_sets(options.layer_sets, OF_MODEL),
    )  # fmt: skip
    own, knobs = job(options), knobs_of(options, RECIPE)
    run(options, lambda host, watch: host.train_lora(own, data, knobs, watch))


COMMAND = Command(
    ("train", "lora"),
    RECIPE.summary,
    "--checkpoint FILE --images FILE ... --role content|style [flags]",
    _add_flags,
    _run,
    epilog(
        (
            f"{PROGRAM} train lora --checkpoint sd_xl_base_1.0.safetensors",
            "--images dog.png --caption 'a photo of sks dog' --size 1024x1024",
            "--role content --layer-sets b-lora --steps 1000 --name dog",
        )
    ),
)
