"""`train b4m`: one half of a B4M pair, to be joined with the other by `train merge`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ...craft_core.requests import HalfData
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

RECIPE = TRAINING["b4m_half"]
PRESETS = ("all", *(key for key in OF_MODEL if key != "all"))


def _add_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--role", choices=ROLES, required=True,
        help="Which half: content or style. A pair needs one of each.",
    )  # fmt: skip
    add_layer_sets_flag(parser, PRESETS)
    add_size_flag(parser)
    add_picture_flags(parser, "images", "What to learn; one picture is enough.", required=True)
    add_picture_flags(
        parser, "partners", "Varied pictures of the other role, about five: styles for a content "
        "half, contents for a style half.", required=False,
    )  # fmt: skip
    add_knob_flags(parser, RECIPE)
    add_training_flags(parser, "craft/half", basis=True)


def _run(options: Namespace) -> None:
    data = HalfData(
        pictures(options, "images"), pictures(options, "partners"), options.role,
        layer_sets(options.layer_sets, PRESETS),
    )  # fmt: skip
    own, knobs = job(options), knobs_of(options, RECIPE)
    run(options, lambda host, watch: host.train_b4m(own, data, knobs, watch))


COMMAND = Command(
    ("train", "b4m"),
    RECIPE.summary,
    "--checkpoint FILE --images FILE ... --role content|style [flags]",
    _add_flags,
    _run,
    epilog(
        (
            f"{PROGRAM} train b4m --checkpoint sd_xl_base_1.0.safetensors",
            "--images dog.png --caption 'a photo of sks dog' --size 1024x1024",
            "--partners pictures/styles --role content --name dog",
        )
    ),
)
