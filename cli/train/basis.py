"""`train basis`: a rank-limited backbone's basis, from all pairs of content and style pictures."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ...craft_core.requests import BasisData
from ...craft_core.training import TRAINING
from ..command import PROGRAM, Command
from ..knob_flags import add_knob_flags, knobs_of
from .common import (
    add_picture_flags,
    add_size_flag,
    add_training_flags,
    epilog,
    job,
    pictures,
    run,
)

RECIPE = TRAINING["basis"]


def _add_flags(parser: ArgumentParser) -> None:
    text = "paired with each {} picture (N x M pairs, Eq. 5)."
    add_picture_flags(parser, "content", text.format("style"), required=True)
    add_picture_flags(parser, "style", text.format("content"), required=True)
    add_size_flag(parser)
    parser.add_argument(
        "--vgg", metavar="FILE", default="",
        help="VGG-19 as a safetensors file, by its name in models/vgg or its path, for the "
        "perceptual term. Default: trained without it.",
    )  # fmt: skip
    add_knob_flags(parser, RECIPE)
    add_training_flags(parser, "craft/basis", basis=False)


def _run(options: Namespace) -> None:
    data = BasisData(pictures(options, "content"), pictures(options, "style"), options.vgg)
    own, knobs = job(options), knobs_of(options, RECIPE)
    run(options, lambda host, watch: host.train_basis(own, data, knobs, watch))


COMMAND = Command(
    ("train", "basis"),
    RECIPE.summary,
    "--checkpoint FILE --content FILE ... --style FILE ... [flags]",
    _add_flags,
    _run,
    epilog(
        (
            f"{PROGRAM} train basis --checkpoint sd_xl_base_1.0.safetensors",
            "--content pictures/objects --style pictures/styles --size 1024x1024",
            "--batch-size 1 --accumulate 8 --name sdxl_basis",
        )
    ),
)
