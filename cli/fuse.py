"""`fuse`: write LoRA files into one, matching layers by a model's names or by the files' own."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..craft_core.errors import CraftError
from ..craft_core.fusion import FUSION
from ..craft_core.merging import MERGES, require_rank
from ..craft_core.registry import Method
from ..craft_core.requests import FuseData
from ..craft_core.routing.plan import require_unnamed_sets
from ..craft_core.training.registry import DTYPES
from ..craft_core.writing import Taken, is_writable
from .bake import bake_without_model
from .command import PROGRAM, Command, epilog
from .host import enter
from .knob_flags import add_method_flags, chosen_method
from .model_flags import add_unet_flags, model_of
from .progress import LayerProgressBar
from .train.common import TRAINED, add_layer_sets_flag, layer_sets
from .train.loras import add_lora_flags, experts

METHODS = (*(one for one in FUSION if not one.traits.averages), *MERGES)
OUT_TEXT = (
    "An output directory: files that trainings saved under it are found by name. Where the "
    "result goes is told by --save."
)


def _add_flags(parser: ArgumentParser) -> None:
    add_lora_flags(parser)
    parser.add_argument(
        "--save", metavar="FILE", required=True,
        help="The safetensors file to write; never over an existing one.",
    )  # fmt: skip
    add_method_flags(parser, METHODS, "How the LoRAs become one: the Router's methods as with "
                     "every marker present, then merges of the weights.")  # fmt: skip
    add_layer_sets_flag(parser, TRAINED)
    parser.add_argument(
        "--progress", metavar="X", type=_ranged(float, 0, 1), default=0.5,
        help="Where in sampling a method that moves with time is taken: 0 the first step, 1 the "
        "last. Default: %(default)s.",
    )  # fmt: skip
    parser.add_argument(
        "--steps", metavar="N", type=_ranged(int, 1, 10_000), default=20,
        help="Steps of the sampling that --progress is a place in. Default: %(default)s.",
    )  # fmt: skip
    parser.add_argument(
        "--rank", metavar="N", type=_ranged(int, 0, 4096), default=0,
        help="Rank of the file; 0 for as many as the method needs, so that just rounding to the "
        "saved type is lost. ties and dare have full rank and need a number. Default: %(default)s.",
    )  # fmt: skip
    parser.add_argument(
        "--save-as", choices=tuple(DTYPES), default="fp16",
        help="Type of the saved numbers. Default: %(default)s.",
    )  # fmt: skip
    add_unet_flags(parser, OUT_TEXT)
    parser.add_argument(
        "--allow-unmatched", action="store_true",
        help="Go without the LoRA keys and layer patterns that match nothing; they are reported.",
    )  # fmt: skip


def _ranged(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """A reader of a flag's number, for argparse."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:  # also refuses NaN
            what = "whole number" if kind is int else "number"
            raise ArgumentTypeError(f"{text!r} is no {what} from {low} to {high}")
        return value

    return read


def data_of(options: Namespace) -> FuseData:
    """The request that the flags make, after every check that needs no file."""
    method, knobs = chosen_method(options, METHODS)
    loras, path = experts(options), Path(options.save)
    if not loras:
        raise CraftError(
            "There is neither a --content-lora nor a --style-lora",
            "A file is made of one LoRA or more",
            "Name the LoRAs",
        )
    _check_place(path)
    if method.key in MERGES.keys():
        require_rank(method, options.rank)
    sets = layer_sets(options.layer_sets, TRAINED)
    _check_sets(method, sets)
    model = model_of(options)
    if model is None and method.key in FUSION.keys():
        require_unnamed_sets(method, sets)
    return FuseData(
        model, loras, method, knobs, sets, options.progress, options.steps, options.rank,
        options.save_as, path, options.allow_unmatched,
    )  # fmt: skip


def _check_place(path: Path) -> None:
    if path.exists():
        raise Taken(path)
    folder, wrong = path.absolute().parent, ""
    if path.suffix != ".safetensors":
        wrong = "is no .safetensors"
    elif not folder.is_dir():
        wrong = "is in no folder"
    elif not is_writable(folder):
        wrong = "is in a folder that cannot be written to"
    if wrong:
        raise CraftError(
            f"--save {path} {wrong}",
            "A .safetensors file is written into an existing folder, never over another file",
            "Choose another name",
        )


def _check_sets(method: Method, sets: str) -> None:
    """CraftError for layer sets that the method does not use."""
    if sets == TRAINED[0] or method.key in FUSION.keys() and method.traits.layer_sets:
        return
    listening = ", ".join(one.key for one in FUSION if one.traits.layer_sets)
    raise CraftError(
        f"--layer-sets with {method.key}",
        f"Layer sets are for {listening}",
        "Leave --layer-sets out, or choose another method",
    )


def _run(options: Namespace) -> None:
    data = data_of(options)
    with LayerProgressBar() as watch:
        if data.model is None:
            report = bake_without_model(data, watch)
        else:
            report = enter(options).fuse(data, watch).report
    print(f"{report}\n{data.path.absolute()}")


COMMANDS = (
    Command(
        ("fuse",),
        "Bake LoRAs into one file that loads everywhere.",
        "--content-lora FILE --style-lora FILE --method WHICH --save FILE [flags]",
        _add_flags,
        _run,
        epilog(
            (
                f"{PROGRAM} fuse --content-lora dog.safetensors --style-lora ink.safetensors 0.8",
                "--method direct --save dog_in_ink.safetensors",
            ),
            (
                f"{PROGRAM} fuse --content-lora dog.safetensors --style-lora ink.safetensors",
                "--method ties --density 0.3 --rank 32 --save dog_in_ink.safetensors",
            ),
        ),
    ),
)
