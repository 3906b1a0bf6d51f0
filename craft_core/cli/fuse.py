"""`fuse`: LoRA files baked into one, with the model's names or, on any machine, by their own."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from tqdm import tqdm

from ..errors import CraftError
from ..fusion import FUSION
from ..merging import MERGES, require_rank
from ..training.recipes import DTYPES
from .bake import bake_without_model, require_known_sets
from .command import PROGRAM, Command
from .host import add_host_flags, enter
from .knob_flags import add_method_flags, chosen_method
from .requests import FuseData, ModelFiles
from .train import TRAINED, add_layer_sets_flag, epilog, layer_sets
from .train_encoder import add_lora_flags, experts

METHODS = (*FUSION, *MERGES)
MODEL_TEXT = """\
optional: without one the files' own names match the layers, and the ComfyUI flags below
are not needed; each FILE is a name as ComfyUI lists it, or a path"""


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
        "--progress", metavar="X", type=float, default=0.5,
        help="Where in sampling a method that moves with time is taken: 0 the first step, 1 the "
        "last. Default: %(default)s.",
    )  # fmt: skip
    parser.add_argument(
        "--steps", metavar="N", type=int, default=20,
        help="Steps of the sampling that --progress is a place in. Default: %(default)s.",
    )  # fmt: skip
    parser.add_argument(
        "--rank", metavar="N", type=int, default=0,
        help="Rank of the file; 0 for as many as the method needs to be exact. ties and dare have "
        "full rank and need a number. Default: %(default)s.",
    )  # fmt: skip
    parser.add_argument(
        "--save-as", choices=tuple(DTYPES), default="fp16",
        help="Type of the saved numbers. Default: %(default)s.",
    )  # fmt: skip
    add_unet_flags(parser)
    parser.add_argument(
        "--allow-unmatched", action="store_true",
        help="With a model: go without the LoRA keys and layer patterns that match nothing.",
    )  # fmt: skip


def add_unet_flags(parser: ArgumentParser) -> None:
    """--checkpoint or --unet, and the host's flags."""
    group = parser.add_argument_group("model", MODEL_TEXT)
    group.add_argument("--checkpoint", metavar="FILE", default="", help="A checkpoint.")
    group.add_argument("--unet", metavar="FILE", default="", help="A diffusion model alone.")
    add_host_flags(parser)


def model_of(options: Namespace) -> ModelFiles | None:
    """The model the user named, if any."""
    if not (options.checkpoint or options.unet):
        return None
    return ModelFiles(checkpoint=options.checkpoint, unet=options.unet)


class Layers:
    """A bar over layers, on stderr."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            pause = 0.1 if sys.stderr.isatty() else 10.0
            self._bar = tqdm(total=total, unit="layer", mininterval=pause)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()


def data_of(options: Namespace) -> FuseData:
    """What the flags ask for, checked as far as no file has to be read."""
    method, knobs = chosen_method(options, METHODS)
    loras, path = experts(options), Path(options.save)
    if not loras:
        raise CraftError(
            "There is neither a --content-lora nor a --style-lora",
            "A file is made of one LoRA or more",
            "Name the LoRAs",
        )
    _check_place(path)
    _check_numbers(options)
    if method.key in MERGES.keys():
        require_rank(method, options.rank)
    sets = layer_sets(options.layer_sets, TRAINED)
    model = model_of(options)
    if model is None and method.key in FUSION.keys():
        require_known_sets(method, sets)
    return FuseData(
        model, loras, method, knobs, sets, options.progress, options.steps, options.rank,
        options.save_as, path, options.allow_unmatched,
    )  # fmt: skip


def _check_place(path: Path) -> None:
    wrong = {
        " is there already": path.exists(),
        " is in no folder": not path.absolute().parent.is_dir(),
        " is no .safetensors": path.suffix != ".safetensors",
    }
    if any(wrong.values()):
        raise CraftError(
            f"--save {path}" + next(text for text, so in wrong.items() if so),
            "A .safetensors file is written into an existing folder, never over another file",
            "Choose another name",
        )


def _check_numbers(options: Namespace) -> None:
    ranges = {"progress": (0, 1), "steps": (1, 10_000), "rank": (0, 4096)}
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if not low <= value <= high:  # also refuses NaN
            raise CraftError(
                f"--{name} {value}", f"It ranges from {low} to {high}", "Set a value in that range"
            )


def _run(options: Namespace) -> None:
    data = data_of(options)
    watch = Layers()
    report = bake_without_model(data, watch) if data.model is None else _in_host(options, data)
    print(f"{report}\n{data.path.absolute()}")


def _in_host(options: Namespace, data: FuseData) -> str:
    return enter(options).fuse(data, Layers()).report


COMMAND = Command(
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
)
