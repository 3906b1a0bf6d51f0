"""LoRA files of the host's folders as branches of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.sd
import comfy.utils
import folder_paths
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.lora import read_lora
from ...craft_core.lora.stated_scales import stated_scales_note, with_stated_alphas
from ...craft_core.routing.layer_sets import of_one_role, parse_layer_sets
from ...craft_core.types import Branch, LoraFile, Role
from ..engine.modules import host_names, lora_layers
from .stamps import stamp

FOLDER = "loras"
NONE = "none"


@dataclass(frozen=True)
class BranchFile:
    """A LoRA file chosen for a role; read once a model is known.

    name: as the host lists it. strength: the user's dial. layers: own layer patterns, one a line,
    in place of the role's layer set; "" for the role's. path: of the file, where it need not be
    one the host lists; "" for the one it lists under the name.
    """

    name: str
    role: Role
    strength: float
    layers: str = ""
    path: str = ""


def lora_choices() -> list[str]:
    return folder_paths.get_filename_list(FOLDER)


def require(file: str | BranchFile) -> str:
    """The path of a file: a branch's own, or by its name in the host's loras folders."""
    if isinstance(file, BranchFile) and file.path:
        return file.path
    name = file.name if isinstance(file, BranchFile) else file
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise CraftError(
            f"There is no LoRA file {name!r}",
            f"{len(lora_choices())} files are in the loras folders",
            "Choose one of the list, or put the file there and press R in the page",
        )
    return path


def lora_stamps(*names: str | None) -> str:
    """What changes when a file is replaced under its name; None where a name is linked."""
    return "\n".join(stamp(FOLDER, name) for name in names)


def read_branch_file(file: str | BranchFile, model: Any, allow: bool = False) -> LoraFile:
    """A branch's file, or one of the host's loras folders, against a MODEL's layers and names.

    allow: go without what of it cannot act; else CraftError.
    """
    return read_lora_files([require(file)], model, allow)[0]


def read_lora_files(paths: Sequence[str], model: Any, allow: bool = False) -> list[LoraFile]:
    """Files against a MODEL, with what the host renames in some before it reads them."""
    layers, names = lora_layers(model), host_names(model)
    convert = comfy.lora_convert.convert_lora
    return [read_lora(path, layers, names, allow, convert) for path in paths]


def branch(chosen: BranchFile, file: LoraFile) -> Branch:
    return Branch(chosen.name, chosen.role, file.layers, chosen.strength)


def unknown_text_keys(clip: Any, file: LoraFile) -> tuple[str, ...]:
    """Keys of the file's text-encoder part that a CLIP does not have, at whatever strength."""
    if not file.text_encoder:
        return ()
    names, patches = _text_patches(clip, file)
    taken = set(clip.clone().add_patches(patches))
    known = tuple(name for name, key in names.items() if key in taken)
    return tuple(key for key in file.text_encoder if not key.startswith(known))


def patch_text_encoder(clip: Any, file: LoraFile, strength: float) -> Any:
    """CLIP with the file's text-encoder part, on a clone; strength 0 or no such part: CLIP itself.

    The host's own maps and patches do it; keys that they do not know are left out.
    """
    if not file.text_encoder or strength == 0.0:
        return clip
    patched = clip.clone()
    patched.add_patches(_text_patches(clip, file)[1], strength)
    return patched


def _text_patches(clip: Any, file: LoraFile) -> tuple[dict, dict]:
    """(key of the CLIP's weight by the name in a file, patches by key)."""
    names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    state = with_stated_alphas(file.text_encoder, file.metadata, allow=True)  # checked on reading
    return names, comfy.lora.load_lora(state, names, log_missing=False)


def check_own_layers(layers: str) -> bool | str:
    """True, or why the patterns cannot be read."""
    try:
        text = of_one_role(layers, "content")
        if text:
            parse_layer_sets(text)
    except CraftError as error:
        return str(error)
    return True


def apply_stack(model: Any, clip: Any, stack: list) -> tuple[Any, Any, list[str]]:
    """(model, clip, report lines) with a LORA_STACK applied as the host's own loader does, but
    for scales that are in a file's metadata alone: those count as in a branch.

    Raises CraftError for an entry that is no safetensors file or matches nothing.
    """
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, names)
    lines = []
    for name, model_strength, clip_strength in stack:
        if name in (NONE, "None"):  # how stack nodes leave a slot empty
            continue
        path = require(name)
        state, note = _stack_state(path, name)
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
