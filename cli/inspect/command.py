"""The flags of `inspect`. Without torch it tells what the header of a file says."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ...craft_core.errors import CraftError
from ..command import PROGRAM, Command
from ..model_flags import add_unet_flags, model_of
from ..stand_in import declarations, missing, require_torch
from .columns import EXPLAINED

_OUT_TEXT = "An output directory: files that trainings saved under it are found by name."


def _add_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="FILE", nargs="+",
        help="One LoRA file, or two to compare; a path, or with a model a name that ComfyUI lists.",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="Every layer, for machines.")
    add_unet_flags(parser, _OUT_TEXT)


def _run(options: Namespace) -> None:
    if len(options.files) > 2:
        raise CraftError(
            f"{len(options.files)} files are given", "One is described, or two are compared",
            "Name one file or two",
        )  # fmt: skip
    model = model_of(options)
    if model is None and missing():
        with declarations():
            from . import header
        header.report_headers(options)
        return
    require_torch()
    from . import measured

    measured.report_measures(options, model)


COMMANDS = (
    Command(
        ("inspect",),
        "What is in a LoRA file, and how two of them meet.",
        "FILE [FILE] [flags]",
        _add_flags,
        _run,
        f"columns:\n{EXPLAINED}\n\nexamples:\n"
        f"  {PROGRAM} inspect dog.safetensors ink.safetensors\n"
        f"  {PROGRAM} inspect dog.safetensors --checkpoint sd_xl_base_1.0.safetensors",
        computes=False,  # where it has no torch it reads headers
    ),
)
