"""LoRA files of the host's folders as branches of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths

from ..craft_core.errors import CraftError
from ..craft_core.lora import read_lora
from ..craft_core.types import Branch, LoraFile, Role
from .modules import host_names, model_layers

FOLDER = "loras"
NONE = "none"


@dataclass(frozen=True)
class BranchFile:
    """A LoRA file chosen for a role; read once a model is known.

    name: as the host lists it. strength: the user's dial. layers: own layer patterns, one a line,
    in place of the role's layer set; "" for the role's.
    """

    name: str
    role: Role
    strength: float
    layers: str = ""


def lora_choices() -> list[str]:
    return folder_paths.get_filename_list(FOLDER)


def require(name: str) -> str:
    """The path of a file of the host's loras folders."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise CraftError(
            f"There is no LoRA file {name!r}",
            f"{len(lora_choices())} files are in the loras folders",
            "Choose one of the list, or put the file there and press R in the page",
        )
    return path


def read(name: str, model: Any) -> LoraFile:
    """A file of the host's loras folders against a MODEL's layers and names."""
    return read_lora(require(name), model_layers(model), host_names(model))


def branch(chosen: BranchFile, file: LoraFile) -> Branch:
    return Branch(chosen.name, chosen.role, file.layers, chosen.strength)


def patch_text_encoder(clip: Any, file: LoraFile, strength: float) -> tuple[Any, tuple[str, ...]]:
    """(CLIP with the file's text-encoder part, keys the text encoder does not have).

    The host's own maps and patches do it, on a clone; strength 0 or no such part: CLIP itself.
    """
    if not file.text_encoder or strength == 0.0:
        return clip, ()
    names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    patches = comfy.lora.load_lora(dict(file.text_encoder), names, log_missing=False)
    patched = clip.clone()
    taken = set(patched.add_patches(patches, strength))
    known = tuple(name for name, key in names.items() if key in taken)
    missing = tuple(k for k in file.text_encoder if not k.startswith(known))
    return patched, missing


def apply_stack(model: Any, clip: Any, stack: list) -> tuple[Any, Any]:
    """A LORA_STACK on model and text encoder, as the host's own loader applies each entry."""
    for name, model_strength, clip_strength in stack:
        state = comfy.utils.load_torch_file(require(name), safe_load=True)
        model, clip = comfy.sd.load_lora_for_models(
            model, clip, state, model_strength, clip_strength
        )
    return model, clip
