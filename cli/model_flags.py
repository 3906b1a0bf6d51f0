"""The flags that say which files the model is made of."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..craft_core.errors import CraftError
from ..craft_core.requests import ModelFiles
from .host import add_host_flags

MODEL_TEXT = """\
each FILE is a name as ComfyUI lists it, or a path; give --checkpoint, or --unet with
--clip and --vae, or a checkpoint and what replaces its parts"""
_HOST_FLAGS = ("comfyui", "base_directory", "out", "custom_node", "cpu")  # only with a model
OPTIONAL_TEXT = """\
optional: without one the files' own names match the layers, and the ComfyUI flags below
are refused; each FILE is a path, or a name as ComfyUI lists it"""


def add_model_flags(parser: ArgumentParser, *, basis: bool) -> None:
    """basis: whether it may be trained on a rank-limited backbone."""
    group = parser.add_argument_group("model", MODEL_TEXT)
    group.add_argument(
        "--checkpoint", metavar="FILE", default="",
        help="A checkpoint with model, text encoder and VAE.",
    )  # fmt: skip
    group.add_argument("--unet", metavar="FILE", default="", help="A diffusion model alone.")
    group.add_argument(
        "--clip", metavar="FILE", action="append", default=[],
        help="A text encoder; repeat it for models with two, such as SDXL: clip_l, then clip_g.",
    )  # fmt: skip
    group.add_argument(
        "--clip-type", metavar="TYPE", default="stable_diffusion",
        help="What the text encoders are for, as in ComfyUI's Load CLIP. Default: %(default)s, "
        "which is right for SDXL too.",
    )  # fmt: skip
    group.add_argument("--vae", metavar="FILE", default="", help="A VAE.")
    if basis:
        group.add_argument(
            "--basis", metavar="FILE", default="",
            help="Train on the rank-limited backbone: this basis is projected out of the model.",
        )  # fmt: skip


def model_files(options: Namespace) -> ModelFiles:
    """CraftError unless model, text encoder and VAE all have a file."""
    given = {"--unet": options.unet, "--clip": options.clip, "--vae": options.vae}
    missing = [flag for flag, value in given.items() if not value]
    if missing and not options.checkpoint:
        raise CraftError(
            f"The model has no {' and no '.join(missing)}"
            if len(missing) < 3
            else "No model given",
            "It is a --checkpoint, or --unet, --clip and --vae",
            "Name the missing files",
        )
    return ModelFiles(
        options.checkpoint, options.unet, tuple(options.clip), options.clip_type, options.vae,
        getattr(options, "basis", ""),
    )  # fmt: skip


def add_unet_flags(parser: ArgumentParser, out: str) -> None:
    """--checkpoint or --unet, and the host's flags. out: help for --out."""
    group = parser.add_argument_group("model", OPTIONAL_TEXT)
    group.add_argument("--checkpoint", metavar="FILE", default="", help="A checkpoint.")
    group.add_argument("--unet", metavar="FILE", default="", help="A diffusion model alone.")
    add_host_flags(parser, out)


def model_of(options: Namespace) -> ModelFiles | None:
    """The model the user named, if any; CraftError for the host's flags without one."""
    if not (options.checkpoint or options.unet):
        given = [f"--{name.replace('_', '-')}" for name in _HOST_FLAGS if getattr(options, name)]
        if given:
            raise CraftError(
                f"{' and '.join(given)} without a model",
                "Without --checkpoint or --unet nothing of ComfyUI is started",
                "Name the model, or leave these out",
            )
        return None
    return ModelFiles(checkpoint=options.checkpoint, unet=options.unet)
