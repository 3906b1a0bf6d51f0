"""`train merge`: content and style LoRAs learn to be one, on the pictures they were made of."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ...craft_core.errors import CraftError
from ...craft_core.requests import MergeData
from ...craft_core.training import LEARNED
from ...craft_core.training.merge import require_strength
from ..command import PROGRAM, Command
from ..knob_flags import add_method_flags, chosen_method
from .common import add_picture_flags, add_size_flag, add_training_flags, epilog, job, pictures, run
from .encoder import add_lora_flags, experts


def _add_flags(parser: ArgumentParser) -> None:
    add_lora_flags(parser)
    parser.add_argument(
        "--fused-prompt", metavar="TEXT", action="append", default=[],
        help="The content in the style, in the LoRAs' own words, such as 'a sks dog in zwx style'; "
        "one for all content LoRAs, or repeated for each. DuoLoRA needs it for its cycles.",
    )  # fmt: skip
    parser.add_argument(
        "--allow-unmatched", action="store_true",
        help="Go without the LoRA keys that match nothing; they are reported.",
    )  # fmt: skip
    add_size_flag(parser)
    add_picture_flags(
        parser, "content", "What the content LoRA was trained on; for several content LoRAs as "
        "many for each, in their order.", required=True,
    )  # fmt: skip
    add_picture_flags(parser, "style", "What the style LoRA was trained on.", required=True)
    add_method_flags(parser, LEARNED, "How the merge is learned.")
    add_training_flags(parser, "craft/merged", basis=True)


def _run(options: Namespace) -> None:
    method, knobs = chosen_method(options, LEARNED)
    data = MergeData(
        pictures(options, "content"), pictures(options, "style"), experts(options),
        "\n".join(options.fused_prompt), method.key, options.allow_unmatched,
    )  # fmt: skip
    if len(data.experts) < 2:
        raise CraftError(
            f"There is {len(data.experts) or 'no'} LoRA to merge",
            "A merge is learned of two or more, content and style",
            "Name a --content-lora and a --style-lora",
        )
    require_strength([expert.strength for expert in data.experts])
    method.traits.prompt(knobs, bool(data.fused_prompt.strip()))
    own = job(options)
    run(options, lambda host, watch: host.train_merge(own, data, knobs, watch))


COMMAND = Command(
    ("train", "merge"),
    "Learn to merge content and style LoRAs into one, from the pictures they were made of.",
    "--checkpoint FILE --method WHICH --content-lora FILE --style-lora FILE --content FILE ... "
    "--style FILE ... [flags]",
    _add_flags,
    _run,
    epilog(
        (
            f"{PROGRAM} train merge --checkpoint sd_xl_base_1.0.safetensors --method duo_lora",
            "--content-lora dog_00001_.safetensors --style-lora ink_00001_.safetensors",
            "--content dog.png --content-caption 'a photo of sks dog'",
            "--style ink.png --style-caption 'a house in zwx style'",
            "--fused-prompt 'a sks dog in zwx style' --size 1024x1024 --name dog_in_ink",
        )
    ),
)
