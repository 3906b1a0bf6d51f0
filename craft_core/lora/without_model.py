"""Read LoRA files that are to be combined, without the model they were made for.

Files name layers in their own ways. Here a layer is called by its *plain name*: the stem without
the format's prefix, dots as underscores, and a UNet's diffusers names in LDM's counting. Shapes
come from the updates. The counting is that of SD1.x, SD2.x and SDXL (two resnets a level); a UNet
of another depth is right as long as its files share one naming.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import CraftError, listed
from ..types import LayerTarget, LoraFile
from .families import CLASSES, family_of, is_text_encoder, share_names
from .formats import KINDS, incomplete, shape_of, stem_of
from .keys import LDM_OUTER, LDM_RESNET, bare_name
from .stated_scales import stated_scales_note
from .storage import parse_lora

_BLOCK = re.compile(r"(down|up)_blocks_(\d+)_(attentions|resnets|downsamplers|upsamplers)_(\d+)_?")
_MIDDLE = re.compile(r"mid_block_(attentions|resnets)_(\d+)_?")
_UP_CONV = re.compile(r"(output_blocks_\d+)_[12]_conv\Z")  # its place depends on the attention's
_NUMBER = re.compile(r"(\d+)")
_STAGES = ("input_", "middle_", "output_")
_FIRST, _LAST = ("time_embed", "label_emb"), ("out_",)
_RESNETS = 2  # of a level
_GIVE_MODEL = "Choose files of one family, or give the model with --checkpoint or --unet"

State = tuple[str, Mapping[str, Tensor], Mapping[str, str]]
"""(name, tensors, metadata) of a file."""


@dataclass(frozen=True)
class Unplaced:
    """Files read against each other.

    shapes: plain name -> weight shape, in depth order as far as names tell it. stems: plain name
    -> the stem the first file with that layer has, under which a result is written.
    """

    files: tuple[LoraFile, ...]
    shapes: Mapping[str, tuple[int, ...]]
    stems: Mapping[str, str]


def read_together(states: Sequence[State], *, whole: bool = True, allow: bool = False) -> Unplaced:
    """The files, their layers matched by name.

    whole: each file has to adapt a layer, and have all parts of every layer it adapts; else
    a file may adapt none, and what a layer lacks is among its file's unmatched names.
    allow: as in parse_lora.
    Raises CraftError as parse_lora does, and for files made for different models: they disagree
    about a layer's shape, have names of two families, or share no layer while their names point
    to no common family.
    """
    _check_families(states)
    shapes: dict[str, tuple[int, ...]] = {}
    stems: dict[str, str] = {}
    owner: dict[str, str] = {}
    names: list[dict[str, LayerTarget]] = []
    halves: list[set[str]] = [set() for _ in states]
    biases: dict[str, tuple[tuple[int, ...], str, str]] = {}
    for number, (name, state, _) in enumerate(states):
        own: dict[str, LayerTarget] = {}
        for stem, parts in stems_of(state, text_encoder=False).items():
            shape = shape_of(parts)
            plain = plain_name(stem)
            if shape is not None and len(shape) < 2 and "diff" not in parts:
                # of a bias, or all that its tensors tell
                own[stem] = LayerTarget(plain)
                biases.setdefault(plain, (shape, stem, name))
                continue
            if shape is None:
                if whole and not allow and set(parts) != {"alpha"}:
                    half = incomplete(parts)
                    raise CraftError(f"{name}: {half.given}", half.possible, half.action)
                halves[number] |= {key for key, _ in parts.values()}
                continue
            own[stem] = LayerTarget(plain)
            known = shapes.get(plain, shape)
            if not _same(known, shape):
                raise CraftError(
                    f"{plain} is {known} in {owner[plain]} and {shape} in {name}",
                    "LoRAs can meet only if they were made for the same model",
                    _GIVE_MODEL,
                )
            shapes[plain] = max(known, shape, key=len)
            stems.setdefault(plain, stem)
            owner.setdefault(plain, name)
        names.append(own)
    for plain, (shape, stem, name) in biases.items():  # where no file changes the weight, too
        if not shape and plain not in shapes:
            raise CraftError(
                f"{name} does not tell the size of {plain}",
                "An IA3 on a layer's inputs has no number of its outputs",
                "Give the model with --checkpoint or --unet",
            )
        shapes.setdefault(plain, shape)
        stems.setdefault(plain, stem)
        owner.setdefault(plain, name)
    _check_meeting(states, names)
    ordered = {plain: shapes[plain] for plain in sorted(shapes, key=_depth)}
    files = [
        _parsed(one, ordered, own, half, allow) if own or whole else _without_layers(one)
        for one, own, half in zip(states, names, halves, strict=True)
    ]
    return Unplaced(tuple(files), ordered, stems)


def _parsed(
    one: State,
    shapes: Mapping[str, tuple[int, ...]],
    own: Mapping[str, LayerTarget],
    half: set[str],
    allow: bool,
) -> LoraFile:
    """own: the file's stems. half: keys of layers that lack a part, which match nothing."""
    name, state, metadata = one
    if state and not own and not all(map(is_text_encoder, state)):
        raise CraftError(
            f"{name} holds no update of a layer ({listed(sorted(state), 2)})",
            f"A LoRA has for each layer {KINDS.made_of}; a checkpoint or a basis has none",
            "Choose a LoRA file",
        )
    try:
        whole = {key: tensor for key, tensor in state.items() if key not in half}
        file = parse_lora(whole, metadata, shapes, own, allow)
    except CraftError as error:
        raise CraftError(f"{name}: {error.given}", error.possible, error.action) from error
    unmatched = dict.fromkeys((*file.unmatched, *map(stem_of, sorted(half))))
    return replace(file, unmatched=tuple(unmatched))


def _without_layers(one: State) -> LoraFile:
    _, state, metadata = one
    text = {key: tensor for key, tensor in state.items() if is_text_encoder(key)}
    rest = map(stem_of, sorted(key for key in state if key not in text))
    note = stated_scales_note(text, metadata)
    return LoraFile({}, text, tuple(dict.fromkeys(rest)), metadata, notes=(note,) if note else ())


def _check_families(states: Sequence[State]) -> None:
    """CraftError where two files have names of different families."""
    known: dict[str, str] = {}
    for name, state, _ in states:
        family = _family(state)
        if family is not None:
            known.setdefault(family, name)
    if not all(share_names(*pair) for pair in itertools.combinations(known, 2)):
        raise CraftError(
            "The files are of different models: "
            + ", ".join(f"{name} looks like {family}" for family, name in known.items()),
            "LoRAs can meet only if they were made for the same model",
            "Choose files of one family",
        )


def _check_meeting(states: Sequence[State], names: Sequence[Mapping[str, LayerTarget]]) -> None:
    """CraftError where a file shares no layer with the others and no name reveals the family."""
    placed = [
        (name, {target.module for target in own.values()}, _family(state))
        for (name, state, _), own in zip(states, names, strict=True)
        if own
    ]
    joined, apart = placed[:1], placed[1:]
    while apart:
        found = next((one for one in apart if any(_meet(one, other) for other in joined)), None)
        if found is None:
            raise CraftError(
                f"{joined[0][0]} and {apart[0][0]} have no layer in common, and their names do not "
                "say that they were made for one model",
                "LoRAs can meet only if they were made for the same model",
                "Give that model with --checkpoint or --unet",
            )
        joined.append(found)
        apart.remove(found)


def _meet(one: tuple, other: tuple) -> bool:
    """Whether two (name, layers, family) share a layer or a family."""
    told = one[2] is not None and other[2] is not None and share_names(one[2], other[2])
    return bool(one[1] & other[1]) or told


def _family(state: Mapping[str, Tensor]) -> str | None:
    """The model family that the names belong to; None if several are possible."""
    family = family_of(key for key in state if not is_text_encoder(key))
    return None if family in CLASSES else family


def carried(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(the tensors that updates are built from, kind -> number of all others that are known:
    DoRA's scales, weight differences, ...)."""
    kinds = {key: KINDS.refused(key) for key in state}
    counted = Counter(kind.name for kind in kinds.values() if kind)
    return {key: tensor for key, tensor in state.items() if not kinds[key]}, dict(counted)


def plain_name(stem: str) -> str:
    """One name for a layer of the diffusion model, however a file calls it."""
    flat = bare_name(stem).replace("_processor_to_", "_to_")
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
        split = KINDS.split(key)
        if split is not None and is_text_encoder(key) == text_encoder:
            found.setdefault(split.stem, {})[split.part] = (key, tensor)
    return found


def _same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Equal up to trailing ones or a flattened kernel: a 1x1 convolution's LoRA may be written as
    a linear's, and a LoHa holds a convolution as (out, n * kernel)."""
    short, long = sorted((one, other), key=len)
    flat = len(short) == 2 and short == (long[0], math.prod(long[1:]))
    return flat or long[: len(short)] == short and set(long[len(short) :]) <= {1}


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
