"""What the train commands share: their flags, and running one training in the host."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from ...craft_core.errors import CraftError
from ...craft_core.requests import Headless, Picture, SavedFile, TrainingOptions
from ...craft_core.routing.layer_sets import parse_layer_sets
from ...craft_core.routing.presets import OF_MODEL
from ...craft_core.training import StepCallback
from ...craft_core.training.sizes import AREA, CROP, RULES
from ..host import add_host_flags, enter
from ..model_flags import add_model_flags, model_files
from ..pictures import caption_flag, find_pictures
from ..progress import Progress

PRECISIONS = ("auto", "bf16", "fp32")  # as in comfy_adapter.train.precision; a test compares them
TRAINED = ("auto", *OF_MODEL)  # auto compares LoRAs that are already trained
PICTURES_TEXT = """\
a picture or a folder of them; a picture's caption is in a text file of the same
name beside it, and a folder inside named like 10_dog counts its pictures ten times"""


def add_training_flags(parser: ArgumentParser, name: str, *, basis: bool) -> None:
    """Flags that every training has. name: the default of --name. basis: see add_model_flags."""
    add_model_flags(parser, basis=basis)
    add_host_flags(parser)
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--name", default=name,
        help="Name of the saved file in its folder of the output directory; counted up, never "
        "over an existing file. Default: %(default)s.",
    )  # fmt: skip
    group.add_argument(
        "--resume", action="store_true",
        help="Go on from where a training of this --name was stopped, or towards more --steps.",
    )  # fmt: skip
    group.add_argument(
        "--precision", choices=PRECISIONS, default="auto",
        help="What the model computes in. auto: bf16 on a device with units for it, else fp32, and "
        "with --resume what the training began in. Default: %(default)s.",
    )  # fmt: skip
    group.add_argument(
        "--no-checkpointing", dest="checkpointing", action="store_false",
        help="Keep everything for the backward pass: faster, with several times the memory.",
    )  # fmt: skip


def add_picture_flags(parser: ArgumentParser, flag: str, what: str, *, required: bool) -> None:
    """--FLAG FILE..., and --caption (of images) or --FLAG-caption."""
    group = parser.add_argument_group(f"{flag} pictures", PICTURES_TEXT)
    group.add_argument(
        f"--{flag}", metavar="FILE", nargs="+", default=[], required=required, help=what
    )
    group.add_argument(
        f"--{caption_flag(flag)}", metavar="TEXT", default="",
        help="One caption for all of them, in place of their text files.",
    )  # fmt: skip


def add_size_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--size", metavar="WxH", type=_size, default=None,
        help="Size that pictures are made to fit, such as 1024x1024. Default: the one that the "
        "model was made for; the report says it.",
    )  # fmt: skip
    rules = "; ".join(f"{key}: {what}" for key, what in RULES.items())
    parser.add_argument(
        "--resize", choices=tuple(RULES), default=None,
        help=f"How a picture is made to fit. {rules}. Default: {CROP} with --size, else {AREA}.",
    )  # fmt: skip


def captioned_pictures(options: Namespace, flag: str) -> tuple[Picture, ...]:
    """The pictures of --FLAG with their captions."""
    caption = getattr(options, caption_flag(flag).replace("-", "_"))
    return find_pictures(getattr(options, flag), caption, flag)


def add_layer_sets_flag(parser: ArgumentParser, presets: Sequence[str]) -> None:
    """presets: the first is the default."""
    parser.add_argument(
        "--layer-sets", "--layers", metavar="WHICH", default=presets[0],
        help="Which layers content and style act on: a preset, or a text file of patterns. "
        f"Presets: {', '.join(presets)}. Default: %(default)s.",
    )  # fmt: skip


def layer_sets(given: str, presets: Sequence[str]) -> str:
    """A preset's key, or the patterns in the file of that path; checked."""
    if given in presets:
        return given
    path = Path(given)
    if not path.is_file():
        raise CraftError(
            f"--layer-sets {given} is no preset and no file",
            f"Presets are {', '.join(presets)}; a file has lines such as "
            "content: up_blocks.0.attentions.0",
            "Name one of these",
        )
    text = path.read_text("utf-8-sig", "replace")
    parse_layer_sets(text)
    return text


def job(options: Namespace) -> TrainingOptions:
    return TrainingOptions(
        model_files(options), options.name, options.resume, options.precision,
        options.checkpointing, options.size, options.resize or (CROP if options.size else AREA),
    )  # fmt: skip


def run_and_report(
    options: Namespace, training: Callable[[Headless, StepCallback], SavedFile]
) -> None:
    """Enter the host, train with a progress bar, print the report and the saved file's path."""
    host = enter(options)
    with Progress() as progress:
        result = training(host, progress)
    print(f"{result.report}\n{result.path}")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text.strip().lower())
    if not found:
        raise ArgumentTypeError(f"{text!r} is no size such as 1024x1024, width first")
    width = int(found[1])
    return width, int(found[2] or width)
