"""Every name under which a LoRA file may hold a layer, derived from the model's own module list.

A *stem* is a file's key without its ending (".lora_down.weight"); formats/ knows the endings.
The module paths of this library are the LDM ones ("input_blocks.4.1.proj_in"); diffusers counts
the same blocks per resolution level ("down_blocks.1.attentions.0.proj_in"). Both countings
follow from which modules exist, so no table of channels or depths is needed, and smaller or
custom UNets of the same class are covered like SD1.x, SD2.x and SDXL.

Trainers put different prefixes before one name, and write its dots as underscores in some places
or all. So names are compared without prefix and with underscores only, once no name fits exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from ..errors import CraftError
from ..types import LayerShapes, LayerTarget
from .trainer_names import trainer_names

LDM_OUTER = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("class_embedding.linear_1", "label_emb.0.0"),  # SD2 unCLIP's name for what SDXL
    ("class_embedding.linear_2", "label_emb.0.2"),  # calls add_embedding
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
LDM_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
PREFIX = re.compile(
    r"(base_model[._]model[._])?(lora_unet_|lycoris_|lora_transformer_|lora_prior_unet_"
    r"|(model\.)?diffusion_model\.|unet\.|transformer\.|pipe\.dit\.)?(base_model\.model\.)?"
)
"""What trainers put before the name of a layer of the diffusion model."""
_LONGEST_PREFIX, _DEEPEST_PREFIX = 60, 8  # letters and words that PREFIX can take
FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
"""Layers of diffusers' fused projections, and what they fuse."""
_FRAMES = "time_stack"  # of a video UNet, whose frames' layers diffusers calls otherwise
_DIFFUSERS_PREFIXES = ("", "unet.", "base_model.model.", "unet.base_model.model.")


def unet_diffusers_blocks(layers: LayerShapes) -> dict[str, str]:
    """Diffusers block name -> LDM prefix of a UNet; empty for any other architecture.

    Blocks ("down_blocks.1.attentions.0" -> "input_blocks.4.1", "mid_block.resnets.1"), the layers
    inside a resnet that are called differently ("....resnets.0.conv1" -> "....in_layers.2"), the
    samplers' convolutions and the layers outside the blocks (conv_in, time_embedding.linear_1).
    Only what the model has is listed. SD2 unCLIP and SDXL call the same LDM layers
    class_embedding and add_embedding; both names are given.
    """
    stages = _stages(layers)
    if not stages["input_blocks"] or not stages["output_blocks"]:
        return {}
    blocks = {name: path for name, path in LDM_OUTER if path in layers}
    blocks |= _level_blocks(stages["input_blocks"], "input_blocks", "down_blocks")
    blocks |= _middle_blocks(stages["middle_block"])
    blocks |= _level_blocks(stages["output_blocks"], "output_blocks", "up_blocks")
    return {name: path for name, path in blocks.items() if _holds_layer(path, layers)}


def unet_diffusers_paths(layers: LayerShapes) -> dict[str, str]:
    """Diffusers module name -> LDM module path of every layer of a UNet; empty for others."""
    names: dict[str, list[str]] = {}
    for name, prefix in unet_diffusers_blocks(layers).items():
        names.setdefault(prefix, []).append(name)
    found = {}
    for path in layers:
        prefix = next((p for p in _prefixes(path) if p in names), None)
        for name in names.get(prefix or "", ()):
            found[name + path[len(prefix or "") :]] = path
    return found


class LoraNames(Mapping[str, LayerTarget]):
    """Stem -> target. Listed are the names as they are known; a stem that is none of them is found
    by its name without prefix, dots as underscores, where that says which layer is meant.

    longest, deepest: letters and words; a stem that has more points nowhere.
    """

    def __init__(self, names: Mapping[str, LayerTarget], layers: LayerShapes) -> None:
        self._names = names
        found: dict[str, set[LayerTarget]] = {}
        for stem, target in names.items():
            found.setdefault(bare_name(stem), set()).add(target)
        self._bare = {name: next(iter(of)) for name, of in found.items() if len(of) == 1}
        self._fused = dict(_fused(self._bare, layers))
        bare = max(map(len, (*self._bare, *self._fused)), default=0)
        self.longest = max((bare + _LONGEST_PREFIX, *map(len, names)))
        words = (stem.count(".") + stem.count("_") + 1 for stem in names)
        self.deepest = _DEEPEST_PREFIX + max(words, default=0)

    def targets(self, stem: str) -> tuple[LayerTarget, ...]:
        """Where a stem points: to one target, to those of a layer that a trainer has fused and the
        model has not ("to_qkv" where q, k and v have names), or to none."""
        if stem in self._names:
            return (self._names[stem],)
        bare = bare_name(stem)
        return (self._bare[bare],) if bare in self._bare else self._fused.get(bare, ())

    def __getitem__(self, stem: str) -> LayerTarget:
        targets = self.targets(stem)
        if len(targets) != 1:
            raise KeyError(stem)
        return targets[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _fused(
    bare: Mapping[str, LayerTarget], layers: LayerShapes
) -> Iterator[tuple[str, tuple[LayerTarget, ...]]]:
    """(name of a fused layer, its targets) for each group of FUSED whose parts have names."""
    for name in bare:
        for whole, parts in FUSED.items():
            stem = name.removesuffix(parts[0])
            if name.endswith(f"_{parts[0]}") and all(stem + part in bare for part in parts):
                targets = [bare[stem + part] for part in parts]
                yield stem + whole, _side_by_side(targets, layers)


def _side_by_side(targets: Sequence[LayerTarget], layers: LayerShapes) -> tuple[LayerTarget, ...]:
    """Where the parts of a fused layer go: slices that meet in one layer are one slice of it."""
    spans = [one.rows or (0, layers[one.module][0]) for one in targets]
    starts = list(accumulate((length for _, length in spans), initial=0))
    start, total = spans[0][0], starts.pop()
    meet = all(at == start + before for (at, _), before in zip(spans, starts, strict=True))
    if meet and len({one.module for one in targets}) == 1:
        module = targets[0].module
        whole = (start, total) == (0, layers[module][0])
        return (LayerTarget(module, None if whole else (start, total)),)
    return tuple(
        replace(one, order=((before, length),), of=total)
        for one, (_, length), before in zip(targets, spans, starts, strict=True)
    )


def bare_name(stem: str) -> str:
    """The name without what trainers put before it, dots as underscores."""
    return _flat(PREFIX.sub("", stem, count=1))


def lora_names(layers: LayerShapes, extra: Mapping[str, LayerTarget] | None = None) -> LoraNames:
    """Stem -> target: every name under which a LoRA file may hold one of the layers.

    For any model: kohya "lora_unet_<path>", generic "diffusion_model.<path>". For a UNet also
    its diffusers names: kohya "lora_unet_<name>", LyCORIS "lycoris_<name>", diffusers and PEFT
    (with and without "unet." and "base_model.model."), attention with and without ".processor",
    "to_out.0" also as "to_out".
    For families the host has no names of: those of trainer_names.py.
    extra: names only the host knows (diffusers names of Flux, SD3, ...), with row slices of fused
    layers; those that point to no linear or convolution layer are left out.
    Raises CraftError if one name would mean two different targets.
    """
    names: dict[str, LayerTarget] = {}
    for path in layers:
        _claim(names, kohya_name(path), LayerTarget(path))
        _claim(names, f"diffusion_model.{path}", LayerTarget(path))
    for name, path in unet_diffusers_paths(layers).items():
        for stem in _diffusers_stems(name):
            _claim(names, stem, LayerTarget(path))
    for stem, target in (extra or {}).items():
        if target.module in layers:
            _claim(names, stem, target)
    for name, target in trainer_names(layers):
        names.setdefault(name, target)
    return LoraNames(names, layers)


def kohya_name(path: str) -> str:
    """A module name as kohya's trainers write it."""
    return f"lora_unet_{_flat(path)}"


def kohya_stems(layers: LayerShapes) -> dict[str, str]:
    """Module path -> the stem under which kohya's own tools store and look for that layer of this
    model: of SD1.x and SD2.x by diffusers' name, of SDXL and of every other by its path."""
    # Of the UNets these alone have attention in their first level.
    told = any(path.startswith("input_blocks.1.1.transformer_blocks.") for path in layers)
    is_sd1 = told and not any(_FRAMES in path.split(".") for path in layers)
    names: dict[str, str] = {}
    for name, path in unet_diffusers_paths(layers).items() if is_sd1 else ():
        names.setdefault(path, name)  # SD2 unCLIP's class_embedding comes first
    return {path: kohya_name(names.get(path, path)) for path in layers}


def _stages(layers: LayerShapes) -> dict[str, dict[int, dict[int, set[str]]]]:
    """Stage -> block number -> part number -> module paths below the part ("" for itself).

    The middle block is a single block, number 0.
    """
    stages: dict[str, dict[int, dict[int, set[str]]]]
    stages = {"input_blocks": {}, "middle_block": {}, "output_blocks": {}}
    for path in layers:
        stage, *rest = path.split(".")
        if stage not in stages:
            continue
        if stage == "middle_block":
            rest.insert(0, "0")
        if len(rest) >= 2 and rest[0].isdecimal() and rest[1].isdecimal():
            parts = stages[stage].setdefault(int(rest[0]), {})
            parts.setdefault(int(rest[1]), set()).add(".".join(rest[2:]))
    return stages


def _level_blocks(
    blocks: Mapping[int, Mapping[int, set[str]]], stage: str, level_stage: str
) -> dict[str, str]:
    """Diffusers names of one side of the UNet; a sampler's convolution ends a level."""
    found: dict[str, str] = {}
    level, index = 0, 0
    for number in sorted(blocks):
        level_ends = False
        for part, inner in sorted(blocks[number].items()):
            prefix, name = f"{stage}.{number}.{part}", f"{level_stage}.{level}"
            if "op" in inner:
                found[f"{name}.downsamplers.0.conv"] = f"{prefix}.op"
                level_ends = True
            elif "conv" in inner:
                found[f"{name}.upsamplers.0.conv"] = f"{prefix}.conv"
                level_ends = True
            elif _is_resnet(inner):
                found |= _resnet_blocks(f"{name}.resnets.{index}", prefix)
            elif _is_attention(inner):
                found[f"{name}.attentions.{index}"] = prefix
        if level_ends:
            level, index = level + 1, 0
        elif any(map(_is_resnet, blocks[number].values())):
            index += 1
    return found


def _middle_blocks(blocks: Mapping[int, Mapping[int, set[str]]]) -> dict[str, str]:
    found: dict[str, str] = {}
    resnets, attentions = 0, 0
    for part, inner in sorted(blocks.get(0, {}).items()):
        if _is_resnet(inner):
            found |= _resnet_blocks(f"mid_block.resnets.{resnets}", f"middle_block.{part}")
            resnets += 1
        elif _is_attention(inner):
            found[f"mid_block.attentions.{attentions}"] = f"middle_block.{part}"
            attentions += 1
    return found


def _resnet_blocks(name: str, prefix: str) -> dict[str, str]:
    inner = {f"{name}.{diffusers}": f"{prefix}.{ldm}" for diffusers, ldm in LDM_RESNET}
    return {name: prefix, **inner}


def _is_resnet(inner: set[str]) -> bool:
    return any(path.startswith("in_layers.") for path in inner)


def _is_attention(inner: set[str]) -> bool:
    return "proj_in" in inner or any(path.startswith("transformer_blocks.") for path in inner)


def _holds_layer(prefix: str, layers: LayerShapes) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for path in layers)


def _prefixes(path: str) -> Iterator[str]:
    """The path itself, then what remains as its last components are taken off one by one."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _diffusers_stems(name: str) -> Iterator[str]:
    flat = _flat(name)
    yield f"lora_unet_{flat}"
    yield f"lycoris_{flat}"
    for prefix in _DIFFUSERS_PREFIXES:
        for form in (name, name.replace(".to_", ".processor.to_")):
            yield prefix + form
            if form.endswith(".to_out.0"):
                yield prefix + form.removesuffix(".0")


def _claim(names: dict[str, LayerTarget], stem: str, target: LayerTarget) -> None:
    known = names.setdefault(stem, target)
    if known != target:
        raise CraftError(
            f"The LoRA name {stem!r} would mean both {known} and {target} in this model",
            "A name can stand for one layer only",
            "Report the model's architecture: its naming needs a rule of its own",
        )


def _flat(path: str) -> str:
    return path.replace(".", "_")
