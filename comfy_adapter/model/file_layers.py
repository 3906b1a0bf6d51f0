"""A model's layers and family from its file's header: what the page can know before it is loaded.

Names of weights become module paths as the host's loaders make them. Nothing of the weights is
read. Layers come in the file's order, which is not the forward order; whoever needs that loads
the model (modules.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.utils
import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.families import FAMILIES
from ...craft_core.lora.families import family_of
from ...craft_core.tensor_file import BadHeader, read_shapes
from ..engine.modules import PREFIX
from .host_files import path_by_name

KINDS = ("checkpoints", "diffusion_models")
_WEIGHT = ".weight"
# What the host's detection raises for a header that is only nearly one of a model.
_BROKEN = (
    LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError,
    AssertionError,
)  # fmt: skip
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])", re.ASCII)  # a whole component of a name
# The host finds a model's kind by counting its blocks one by one among all names.
_MOST_TENSORS = 8_000  # the largest checkpoints have half of it
_MOST_DIGITS = 3  # of a block's number
_TABLES = frozenset({
    "cond_type_embedding", "embed", "embed_image_indicator", "embedder",
    "embedding", "label_emb", "lyric_embs", "pos_embed", "style_embedder", "timestep_features",
    "token", "trainable_cond_mask",
})  # fmt: skip
"""Two axes as well, but no linear layer."""
_NO_LAYER = re.compile(
    r"(?:.*\.)?(?:"
    r"language_model\.embed_tokens"  # HiDream-O1; a linear layer in ACE-Step 1.5
    r"|(?:moe|ff_i)\.gate"  # which expert: HiDream, Hunyuan3D
    r"|motion_encoder\.(?:enc|dec)\..+"  # Wan Animate's own kind of layer
    r"|up_upscalers\.\d+\.1|decoder\.proj_out\.1"  # transposed: Stable Cascade, ACE-Step 1.5
    r")\Z"
)


def file_of(kind: str, name: str) -> Path:
    """The path of a model file of the host's folders."""
    path = path_by_name(kind, name) if kind in KINDS and name else None
    if path is None:
        raise CraftError(
            f"There is no file {name!r} in {kind}",
            f"Models are read from {' and '.join(KINDS)}",
            "Choose a file that is there",
        )
    return Path(path)


def file_layers(path: Path) -> dict[str, tuple[int, ...]]:
    """{module path inside the diffusion model: weight shape} of its linear and convolution layers.

    Raises CraftError for a file that is no safetensors file or holds no diffusion model.
    """
    try:
        state = _diffusion_model(_header(path))
    except CraftError:
        raise
    except _BROKEN as error:
        raise CraftError(
            f"{path.name} has names of a model, and shapes that no model has",
            "The host tells a model's kind by the names and shapes of its tensors",
            "Get the file again, or choose another one",
        ) from error
    found = {
        key.removesuffix(_WEIGHT): tuple(weight.shape)
        for key, weight in state.items()
        if key.endswith(_WEIGHT) and weight.ndim > 1 and not _is_no_layer(key)
    }
    if not found:
        raise CraftError(
            f"{path.name} holds no layers of a diffusion model",
            "A checkpoint or a diffusion model has linear and convolution layers",
            "Choose another file",
        )
    return found


def file_latent(path: Path) -> tuple[tuple[str, int, int] | None, str]:
    """What a picture of the file's model starts from, as class_latent, and the family that its
    names look like, as those of a LoRA do, "" if unclear; (None, "") where the file holds no model
    that the host knows.

    Raises CraftError for a file that is no safetensors file.
    """
    state = _header(path)
    prefix = comfy.model_detection.unet_prefix_from_state_dict(state)
    try:
        config = comfy.model_detection.model_config_from_unet(state, prefix)
        names = _diffusion_model(state) if config else ()
    except _BROKEN:
        return None, ""
    return class_latent(config), family_of(names) or ""


def class_latent(config: Any) -> tuple[str, int, int] | None:
    """What a picture of a model starts from, as `Family.latent`. A model class of another pack may
    say so as its `first_latent`. None where neither is known. config: the host's, of the model."""
    kind = type(config).__name__
    of_family = (one.latent for one in FAMILIES.values() if kind in one.classes)
    return next(of_family, getattr(config, "first_latent", None))


def _header(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, with their shapes and nothing in them."""
    shapes, reason = {}, ""
    if path.suffix in (".safetensors", ".sft"):
        try:
            shapes = read_shapes(path, _MOST_TENSORS)
        except (OSError, BadHeader) as error:
            reason = f" ({error})"
        if any(len(number) > _MOST_DIGITS for key in shapes for number in _NUMBER.findall(key)):
            shapes, reason = {}, f" (its blocks have numbers of more than {_MOST_DIGITS} digits)"
    if not shapes:
        raise CraftError(
            f"{path.name} cannot be read without loading it{reason}",
            "The header of a safetensors file tells its layers",
            "Run once, and read the Router's report",
        )
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def _diffusion_model(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The diffusion model's weights under the host's names, as its loaders find them."""
    prefix = comfy.model_detection.unet_prefix_from_state_dict(state)
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if inner:
        return inner
    if any(key.startswith("down_blocks.") for key in state):
        config = comfy.model_detection.model_config_from_diffusers_unet(state)
        names = comfy.utils.unet_to_diffusers(config.unet_config) if config else {}
        return {names[key]: weight for key, weight in state.items() if key in names}
    converted = comfy.model_detection.convert_diffusers_mmdit(state, "")
    return {k.removeprefix(PREFIX): v for k, v in (converted or state).items()}


def _is_no_layer(key: str) -> bool:
    """Whether a weight is a table of embeddings, or another that no branch adapts."""
    path = key.removesuffix(_WEIGHT)
    return path.rsplit(".", 1)[-1] in _TABLES or _NO_LAYER.match(path) is not None
