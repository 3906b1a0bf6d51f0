"""The flags that say which files the model is made of."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..craft_core.errors import CraftError
from ..craft_core.requests import ModelFiles

MODEL_TEXT = """\
each FILE is a name as ComfyUI lists it, or a path; give --checkpoint, or --unet with
--clip and --vae, or a checkpoint and what replaces its parts"""


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
