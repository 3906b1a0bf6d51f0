"""Read LoRA files that are to meet each other, without the model they were made for.

Files name layers in their own ways. Here a layer is called by its *plain name*: the stem without
the format's prefix, dots as underscores, and a UNet's diffusers names in LDM's counting. Shapes
come from the factors. The counting is that of SD1.x, SD2.x and SDXL (two resnets a level); a UNet
of another depth is right as long as its files share one naming.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import CraftError
from ..types import LoraFile, Target
from .formats import is_text_encoder, split_key
from .keys import LDM_OUTER, LDM_RESNET
from .storage import parse_lora

_PREFIX = re.compile(
    r"(base_model[._]model[._])?(lora_unet_|lycoris_|lora_transformer_"
    r"|(model\.)?diffusion_model\.|unet\.|transformer\.)?(base_model\.model\.)?"
)
_BLOCK = re.compile(r"(down|up)_blocks_(\d+)_(attentions|resnets|downsamplers|upsamplers)_(\d+)_?")
_MIDDLE = re.compile(r"mid_block_(attentions|resnets)_(\d+)_?")
_UP_CONV = re.compile(r"(output_blocks_\d+)_[12]_conv\Z")  # its place depends on the attention's
_NUMBER = re.compile(r"(\d+)")
_STAGES = ("input_", "middle_", "output_")
_FIRST, _LAST = ("time_embed", "label_emb"), ("out_",)
_RESNETS = 2  # of a level


@dataclass(frozen=True)
class Unplaced:
    """Files read against each other.

    shapes: plain name -> weight shape, in depth order as far as names tell it. stems: plain name
    -> the stem the first file with that layer has, under which a result is written.
    """

    files: tuple[LoraFile, ...]
    shapes: Mapping[str, tuple[int, ...]]
    stems: Mapping[str, str]


def read_together(
    states: Sequence[tuple[str, Mapping[str, Tensor], Mapping[str, str]]],
) -> Unplaced:
    """(name, tensors, metadata) of each file -> the files, their layers matched by name.

    Raises CraftError as parse_lora does, and where files disagree about a layer's shape: then
    they were made for different models.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    stems: dict[str, str] = {}
    owner: dict[str, str] = {}
    names: list[dict[str, Target]] = []
    for name, state, _ in states:
        own: dict[str, Target] = {}
        for stem, parts in stems_of(state, text_encoder=False).items():
            shape = shape_of(parts)
            plain = plain_name(stem)
            own[stem] = Target(plain)
            if shape is None:
                continue
            known = shapes.get(plain, shape)
            if not _same(known, shape):
                raise CraftError(
                    f"{plain} is {known} in {owner[plain]} and {shape} in {name}",
                    "LoRAs can meet only if they were made for the same model",
                    "Choose two of one family, or give the model with --checkpoint",
                )
            shapes[plain] = max(known, shape, key=len)
            stems.setdefault(plain, stem)
            owner.setdefault(plain, name)
        names.append(own)
    ordered = {plain: shapes[plain] for plain in sorted(shapes, key=_depth)}
    files = []
    for (name, state, metadata), own in zip(states, names, strict=True):
        try:
            files.append(parse_lora(state, metadata, ordered, own))
        except CraftError as error:
            raise CraftError(f"{name}: {error.given}", error.possible, error.action) from error
    return Unplaced(tuple(files), ordered, stems)


def plain_name(stem: str) -> str:
    """One name for a layer of the diffusion model, however a file calls it."""
    flat = _PREFIX.sub("", stem, count=1).replace(".", "_").replace("_processor_to_", "_to_")
    flat = re.sub(r"_to_out\Z", "_to_out_0", flat)
    for diffusers, ldm in LDM_OUTER:
        if flat == diffusers.replace(".", "_"):
            return ldm.replace(".", "_")
    return _UP_CONV.sub(r"\1_up_conv", _ldm(flat))


def stems_of(
    state: Mapping[str, Tensor], *, text_encoder: bool
) -> dict[str, dict[str, tuple[str, Tensor]]]:
    """Stem -> its parts, of the text encoders' tensors or of all others."""
    found: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for key, tensor in state.items():
        split = split_key(key)
        if split is not None and is_text_encoder(key) == text_encoder:
            found.setdefault(split.stem, {})[split.part] = (key, tensor)
    return found


def shape_of(parts: Mapping[str, tuple[str, Tensor]]) -> tuple[int, ...] | None:
    """The weight's shape as an update's tensors tell it; None where they are incomplete."""
    tensor = {part: value for part, (_, value) in parts.items()}
    if {"down", "up"} <= tensor.keys():
        kernel = tensor["mid" if "mid" in tensor else "down"].shape[2:]
        return (tensor["up"].shape[0], *tensor["down"].shape[1:2], *kernel)
    if not {"w1_a", "w1_b"} <= tensor.keys():
        return None
    if "t1" in tensor:
        return (tensor["w1_a"].shape[1], tensor["w1_b"].shape[1], *tensor["t1"].shape[2:])
    return (tensor["w1_a"].shape[0], tensor["w1_b"].shape[1])


def _same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Equal up to trailing ones: a 1x1 convolution's LoRA may be written as a linear's."""
    short, long = sorted((one, other), key=len)
    return long[: len(short)] == short and set(long[len(short) :]) <= {1}


def _ldm(flat: str) -> str:
    found = _BLOCK.match(flat)
    if found:
        side, level, part, index = found[1], int(found[2]), found[3], int(found[4])
        start = (_RESNETS + 1) * level + (side == "down")
        stage, rest = ("input" if side == "down" else "output"), flat[found.end() :]
        if part == "downsamplers":
            return f"input_blocks_{start + _RESNETS}_0_op"
        if part == "upsamplers":
            return f"output_blocks_{start + _RESNETS}_up_conv"
        return _part(f"{stage}_blocks_{start + index}", part, rest)
    found = _MIDDLE.match(flat)
    if found:
        place = 1 if found[1] == "attentions" else 2 * int(found[2])
        return _part("middle_block", found[1], flat[found.end() :], f"_{place}")
    return flat


def _part(block: str, part: str, rest: str, place: str = "") -> str:
    if part == "resnets":
        rest = dict(LDM_RESNET).get(rest, rest).replace(".", "_")
    return f"{block}{place or ('_1' if part == 'attentions' else '_0')}_{rest}"


def _depth(plain: str) -> tuple:
    """A UNet's stages in forward order, numbers by value."""
    stage = next((i for i, prefix in enumerate(_STAGES, 1) if plain.startswith(prefix)), 0)
    if plain.startswith(_LAST):
        stage = len(_STAGES) + 1
    if plain.startswith(_FIRST):
        stage = -1
    pieces = _NUMBER.split(plain)
    return stage, [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces]
