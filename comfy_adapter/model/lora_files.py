"""LoRA files of the host's folders as branches of a model.

A file that a living MODEL uses is not read again: prompts, strengths, schedules, methods and layer
sets say how it is used, and change nothing of what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary, finalize

import comfy.lora
import comfy.lora_convert
import comfy.sd
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.lora import read_lora
from ...craft_core.lora.formats import KINDS, AdaptedLayer, Parts, build_updates
from ...craft_core.lora.peft_config import read_peft_configs, stated_for
from ...craft_core.lora.stated_scales import stated_scales_note, with_stated_alphas
from ...craft_core.lora.without_model import stems_of
from ...craft_core.routing import layer_sets
from ...craft_core.routing.lora_rows import SAME, LoraRow
from ...craft_core.types import Branch, LayerTarget, LayerUpdate, LoraFile, Role
from ..engine.modules import ModelNames, model_names
from ..engine.weights import BranchPatch
from ..living import in_use, let_stay
from .host_files import path_by_name
from .in_use import AddedPatches, patched_as
from .stamps import file_stamp, stamp

FOLDER = "loras"
NONE = "none"
_FACTORS = (".weight", ".bias")  # how the keys end that the host reads as factors

# What living MODELs use; none of these keeps it alive.
_in_use: WeakValueDictionary[tuple, LoraFile] = in_use()
_texts_in_use: WeakValueDictionary[tuple, TextPatches] = in_use()
_stacks_in_use: WeakValueDictionary[tuple, StackPatches] = in_use()
# How files meet text encoders, by both; each while both live.
_text_fits: dict[tuple[int, int], TextFit] = {}
_STACKED = "craft_lora_stack"  # what a stacked MODEL keeps alive of its stack


@dataclass(frozen=True)
class BranchFile:
    """A LoRA file chosen for a role; read once a model is known.

    name: as the host lists it. strength: the user's dial. layers: own layer patterns, one a line,
    in place of the role's layer set; "" for the role's. path: of the file, where it need not be
    one the host lists; "" for the one it lists under the name. second: the name of the file in its
    place for a second MODEL; SAME for this one, NONE for no LoRA there.
    """

    name: str
    role: Role
    strength: float
    layers: str = ""
    path: str = ""
    second: str = SAME


def for_second_model(branches: Sequence[BranchFile]) -> tuple[BranchFile, ...]:
    """The branches with their files for a second MODEL, without those that have none there."""
    return tuple(
        branch if branch.second == SAME else replace(branch, name=branch.second, path="")
        for branch in branches
        if branch.second != NONE
    )


def branches_of(rows: Sequence[LoraRow]) -> tuple[BranchFile, ...]:
    """The rows that are on, in their order."""
    return tuple(
        BranchFile(row.lora, row.role, row.strength, row.layers, second=row.second_lora)
        for row in rows
        if row.on
    )


def lora_choices() -> list[str]:
    return folder_paths.get_filename_list(FOLDER)


def require(file: str | BranchFile) -> str:
    """The path of a file: a branch's own, or by its name in the host's loras folders."""
    if isinstance(file, BranchFile) and file.path:
        return file.path
    name = file.name if isinstance(file, BranchFile) else file
    path = path_by_name(FOLDER, name)
    if path is None:
        raise CraftError(
            f"There is no LoRA file {name!r}",
            f"{len(lora_choices())} files are in the loras folders",
            "Choose one of the list, or put the file there and press R in the page",
        )
    return path


def lora_stamps(*names: str | None) -> str:
    """What changes when a file is replaced under its name; None where a name is linked. For
    fingerprints: a run begins, in which what is in use may be used again."""
    let_stay()
    return "\n".join(stamp(FOLDER, name) for name in names)


def read_branch_file(file: str | BranchFile, model: Any, allow: bool = False) -> LoraFile:
    """A branch's file, or one of the host's loras folders, against a MODEL's layers and names.

    allow: go without what of it cannot act; else CraftError.
    """
    return read_lora_files([require(file)], model, allow)[0]


def read_lora_files(paths: Sequence[str], model: Any, allow: bool = False) -> list[LoraFile]:
    """Files against a MODEL, with what the host renames in some before it reads them. One that a
    living MODEL uses is not read again."""
    return [_read_once(path, model_names(model), allow) for path in paths]


def _read_once(path: str, model: ModelNames, allow: bool) -> LoraFile:
    key = (*file_stamp(path), model.family)
    found = _in_use.get(key)
    if found is None or (found.faults and not allow):
        with torch.inference_mode(False):  # trainings take what a Router has read
            found = read_lora(
                path, model.layers, model.names, allow, comfy.lora_convert.convert_lora,
                mapped=not comfy.utils.DISABLE_MMAP,  # as the host maps what it loads
            )  # fmt: skip
        _in_use[key] = found
    return found


def branch(chosen: BranchFile, file: LoraFile) -> Branch:
    return Branch(chosen.name, chosen.role, file.layers, chosen.strength)


@dataclass(frozen=True)
class TextFit:
    """How a file's text-encoder part meets a CLIP.

    state: the tensors that act. unknown: the keys that the CLIP does not have. faults: what of the
    others cannot act, and why. patches: the host's, of those that act, for any strength.
    """

    state: dict[str, Tensor]
    unknown: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    patches: dict = field(default_factory=dict)


def text_fit(clip: Any, file: LoraFile) -> TextFit:
    """What of the file acts on a CLIP, at whatever strength.

    The host itself drops what does not fit while it samples, and says so in its log alone. Found
    once for a text encoder and a file.
    """
    if not file.text_encoder:
        return TextFit({})
    key = (id(clip.cond_stage_model), id(file))
    if key not in _text_fits:
        _text_fits[key] = _text_fit(clip, file)
        for one in (clip.cond_stage_model, file):
            finalize(one, _text_fits.pop, key, None).atexit = False
    return _text_fits[key]


def _text_fit(clip: Any, file: LoraFile) -> TextFit:
    names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    weights = clip.cond_stage_model.state_dict()
    faults, lost = _misfits(file, names, weights)
    state = {key: tensor for key, tensor in file.text_encoder.items() if key not in lost}
    patches = _text_patches(names, weights, file, state)
    taken = set(clip.clone().add_patches(patches))
    known = tuple(name for name, key in names.items() if key in taken)
    loaded = {key for patch in patches.values() for key in getattr(patch, "loaded_keys", ())}
    unknown = [
        key for key in state
        if not key.startswith(known) or (loaded and key.endswith(_FACTORS) and key not in loaded)
    ]  # fmt: skip
    acting = {k: t for k, t in state.items() if k not in unknown}
    if len(acting) < len(state):
        patches = _text_patches(names, weights, file, acting)
    return TextFit(acting, (*unknown,), (*faults,), patches)


def _misfits(
    file: LoraFile, names: dict[str, str], weights: dict[str, Tensor]
) -> tuple[list[str], set[str]]:
    """(why, their keys) of updates that do not fit their weight, or are of a kind that no branch
    carries. A weight that is packed tells no shape, and is the host's to judge."""
    refused = {key: kind for key in file.text_encoder if (kind := KINDS.refused(key))}
    faults = [f"{key} is of a kind that is not carried ({kind.name})"
              for key, kind in refused.items()]  # fmt: skip
    lost = set(refused)
    for _, parts, built in _text_updates(names, weights, file, file.text_encoder):
        try:
            built()
        except CraftError as error:
            faults.append(error.given)
            lost |= {key for key, _ in parts.values()}
    return faults, lost


def _text_updates(
    names: dict[str, str], weights: dict[str, Tensor], file: LoraFile, state: Mapping[str, Tensor]
) -> Iterator[tuple[str, Parts, Callable[[], list]]]:
    """(key, the file's tensors, what builds their updates) of each weight of the text encoder that
    the file changes and that tells its shape."""
    configs = read_peft_configs(file.metadata)
    for stem, parts in stems_of(state, text_encoder=True).items():
        key = names.get(stem, "")
        weight = weights.get(key)
        if weight is None or not weight.is_floating_point() or set(parts) == {"alpha"}:
            continue
        layer = AdaptedLayer(LayerTarget(stem), tuple(weight.shape))
        yield key, parts, partial(build_updates, parts, layer, stated_for(configs, stem))


def patch_text_encoder(clip: Any, file: LoraFile, strength: float) -> Any:
    """CLIP with the file's text-encoder part, on a clone; strength 0 or no such part: CLIP itself.

    The host's own maps and patches do it; what cannot act (text_fit) is left out.
    """
    if not file.text_encoder or strength == 0.0:
        return clip
    patched = clip.clone()
    patched.add_patches(text_fit(clip, file).patches, strength)
    return patched


@dataclass(frozen=True, eq=False)
class TextPatches:
    """The text-encoder parts of files on a CLIP. files: so that no others take their ids."""

    patches: AddedPatches
    files: tuple[LoraFile, ...]


def patched_text(
    clip: Any, parts: Sequence[tuple[LoraFile, float]]
) -> tuple[Any, TextPatches | None]:
    """(patch_text_encoder for each (file, strength), what the next call needs for the host to patch
    the text encoder's weights no more: None where they are not patched). This holds no CLIP."""
    acting = [(file, strength) for file, strength in parts if file.text_encoder and strength]
    if not acting:
        return clip, None
    key = (*patched_as(clip.patcher), *((id(file), strength) for file, strength in acting))
    found = _texts_in_use.get(key)
    if found is not None and found.patches.fit(clip.patcher):
        return _patched_clip(clip, found.patches), found
    patched = clip
    for file, strength in acting:
        patched = patch_text_encoder(patched, file, strength)
    added = AddedPatches.of(patched.patcher, clip.patcher)
    found = _texts_in_use[key] = TextPatches(added, tuple(file for file, _ in acting))
    return patched, found


def _patched_clip(clip: Any, patches: AddedPatches) -> Any:
    clone = clip.clone()
    patches.put_on(clone.patcher)
    return clone


def _text_patches(
    names: dict[str, str], weights: dict[str, Tensor], file: LoraFile, state: dict[str, Tensor]
) -> dict:
    """Patches by the CLIP's keys: the host's, and for a kind that it does not have (IA3) ours.

    names: a weight's key by what files call it. state: of the file's text-encoder part.
    """
    state = with_stated_alphas(state, file.metadata, allow=True)  # checked on reading
    patches = comfy.lora.load_lora(state, names, log_missing=False)
    for key, parts, built in _text_updates(names, weights, file, state):
        own = [] if key in patches else [one for one, _ in built() if one.on_weight]
        if own:
            read = partial(_moved, own[0])
            patches[key] = BranchPatch({name for name, _ in parts.values()}, ((read, 1.0),))
    return patches


def _moved(update: LayerUpdate, like: Tensor) -> LayerUpdate:
    return update.mapped(lambda tensor: tensor.to(like.device))


def check_own_layers(layers: str) -> bool | str:
    """True, or why the patterns cannot be read."""
    try:
        layer_sets.check_patterns(layers)
    except CraftError as error:
        return str(error)
    return True


def apply_stack(model: Any, clip: Any, stack: Sequence) -> tuple[Any, Any, Sequence[str]]:
    """(model, clip, report lines) with a LORA_STACK applied as the host's own loader does, but
    for scales that are in a file's metadata alone: those count as in a branch. While a MODEL with
    it lives, nothing is read or patched again; the MODEL does not keep the CLIP alive.

    Raises CraftError for an entry that is no safetensors file or matches nothing.
    """
    entries = [one for one in stack if one[0] not in (NONE, "None")]  # how a slot is left empty
    if not entries:
        return model, clip, ()
    stamps = tuple((*file_stamp(require(name)), *strengths) for name, *strengths in entries)
    key = (*patched_as(model), *patched_as(clip.patcher), stamps)
    found = _stacks_in_use.get(key)
    if found is not None and found.on_model.fit(model) and found.on_text.fit(clip.patcher):
        stacked = model.clone()
        found.on_model.put_on(stacked)
        text = _patched_clip(clip, found.on_text)
    else:
        stacked, text, lines = _stacked(model, clip, entries)
        on_model = AddedPatches.of(stacked, model)
        on_text = AddedPatches.of(text.patcher, clip.patcher)
        found = _stacks_in_use[key] = StackPatches(on_model, on_text, tuple(lines))
    stacked.set_attachments(_STACKED, found)
    return stacked, text, found.lines


@dataclass(frozen=True, eq=False)
class StackPatches:
    """What a LORA_STACK puts on a MODEL and on its CLIP, and its report lines."""

    on_model: AddedPatches
    on_text: AddedPatches
    lines: tuple[str, ...]


def _stacked(model: Any, clip: Any, entries: Sequence) -> tuple[Any, Any, list[str]]:
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, names)
    lines = []
    for name, model_strength, clip_strength in entries:
        state, note = _stack_state(require(name), name)
        converted = comfy.lora_convert.convert_lora(state)
        matched = len(comfy.lora.load_lora(converted, names, log_missing=False))
        if not matched:
            raise CraftError(
                f"{name} in the lora_stack matches nothing of this model",
                "A stack's LoRAs are applied to the backbone",
                "Use a file made for this model, or take it out of the stack",
            )
        model, clip = comfy.sd.load_lora_for_models(
            model, clip, state, model_strength, clip_strength
        )
        lines.append(f"Stack {name}: {matched} layers on the backbone at {model_strength:g}")
        if note:
            lines.append(f"Stack {name}: {note}")
    return model, clip, lines


def _stack_state(path: str, name: str) -> tuple[dict[str, Tensor], str]:
    """(tensors with all scales among them, what that changes)"""
    if not path.lower().endswith((".safetensors", ".sft")):
        raise CraftError(
            f"{name} in the lora_stack is not a safetensors file",
            "Other formats can run code when opened",
            "Convert it to safetensors",
        )
    state, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    metadata = metadata or {}
    return with_stated_alphas(state, metadata), stated_scales_note(state, metadata)
