"""A rank-limited backbone in the host: a basis file projected out of a MODEL's weights.

The projection is a weight patch of its own kind, put on a clone and computed by the host
whenever it patches or streams the weight: offloading, dynamic VRAM and quantised models keep
working, and no weight is read when the node runs. It acts in the order of patches: on the
model's weights plus the LoRAs loaded before it; LoRAs loaded after it are added to the projected
weights, untouched, which is the paper's W* + dW. CRAFT-LoRA (2026), arXiv:2602.18936, Eqs. 1-4.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.weight_adapter
import folder_paths
import nodes as host_nodes
import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.projection import (
    Basis,
    Projected,
    Side,
    Which,
    component,
    match_layers,
    read_basis,
    read_header,
    require_strength,
)
from ..engine.modules import PREFIX, model_layers
from .host_files import path_by_name
from .stamps import hash_of, stamp

log = logging.getLogger("craft")

FOLDER = "craft_bases"
# Weights are projected in pieces of this many values, so that the float32 copies stay small
# beside a weight that the host streams through little memory.
PIECE = 1 << 24
_DIGITS = 12  # of a file's hash


class ProjectionAdapter(comfy.weight_adapter.WeightAdapterBase):
    """W - strength * Q Q^T W (output side) or W - strength * W Q Q^T (input side), in place.

    weights: (q, side, what is projected). The host rebuilds adapters as
    type(self)(loaded_keys, weights) with the tensors of `weights` moved, so they hold all of this
    one's state.
    """

    name = "craft_projection"

    def __init__(self, loaded_keys: set[str], weights: tuple[Tensor, Side, Projected]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights  # type: ignore[assignment]

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """The host's call; `weight` is its own copy, in the dtype it computes patches in.

        Projected in float32 and rounded once, whatever that dtype is.
        """
        q, side, _ = self.weights
        q = comfy.model_management.cast_to_device(q, weight.device, torch.float32)
        for piece in _pieces(weight, side):
            piece.copy_(piece.float() - strength * component(piece, q, side))
        return weight


def _pieces(weight: Tensor, side: Side) -> Iterable[Tensor]:
    """Views of the weight that can be projected one by one: columns, or rows on the input side."""
    axis = 1 if side == "output" else 0
    length = max(1, PIECE * weight.shape[axis] // max(1, weight.numel()))
    return weight.split(length, dim=axis)


def apply_basis(
    model: Any, basis: Basis, which: Which = "both", strength: float = 1.0, allow_missing=False
) -> Any:
    """A clone of the MODEL (ModelPatcher) with the basis's subspace projected out of its weights.

    which: the content bases, the style bases, or both merged (Eq. 3). strength: the fraction of
    the component removed; 0 leaves the model as it is, bitwise. CraftError if a layer is missing
    (unless allow_missing) or has another size, or is already projected.
    """
    require_strength(strength)
    layers = match_layers(basis.select(which), model_layers(model), basis.side, allow_missing)
    require_unlimited(model, layers)
    limited = model.clone()
    if strength == 0.0:
        return limited
    told = Projected(basis.name, basis.digest, basis.part_taken(which), strength)
    patches = {
        _key(path): ProjectionAdapter({path}, (q, basis.side, told)) for path, q in layers.items()
    }
    patched = limited.add_patches(patches, strength)
    assert len(patched) == len(patches), "the host has no weight for a layer it lists"
    log.info("rank-limited %d of the basis's %d layers", len(layers), len(basis.layers))
    whole = [path for path, q in layers.items() if q.shape[0] == q.shape[1]]
    if whole:
        log.warning("the basis spans these layers wholly, nothing is left of them: %s", whole)
    return limited


def require_unlimited(model: Any, layers: Iterable[str]) -> None:
    """One projection a layer: a second would compound strengths, and two bases do not commute."""
    limited = [path for path in layers if _is_limited(model, path)]
    if limited:
        raise CraftError(
            f"This model is already rank-limited in {len(limited)} of the basis's layers, "
            f"such as {limited[0]}",
            "A layer is projected once; content and style together are one merged projection",
            "Connect the model from before the other Load Rank-Limited UNet, and choose 'both' "
            "to remove content and style",
        )


def _is_limited(model: Any, path: str) -> bool:
    return any(
        isinstance(patch[1], ProjectionAdapter) for patch in model.patches.get(_key(path), ())
    )


def projected_from(model: Any) -> frozenset[Projected]:
    """What is projected out of the MODEL's weights; no weight is read."""
    return frozenset(
        patch[1].weights[2]
        for own in model.patches.values()
        for patch in own
        if isinstance(patch[1], ProjectionAdapter)
    )


def base_weight(model: Any, path: str) -> Tensor:
    """The layer's weight as loaded, before any patch: float32 on the CPU, dequantised."""
    key = _key(path)
    weight, _, convert = comfy.model_patcher.get_key_weight(model.model, key)
    if key in model.backup:
        weight = model.backup[key].weight
    weight = comfy.model_management.cast_to_device(
        weight, torch.device("cpu"), torch.float32, copy=True
    )
    return weight if convert is None else convert(weight, inplace=True)


def _key(path: str) -> str:
    return f"{PREFIX}{path}.weight"


def load_source(source: Mapping[str, Any]) -> Any:
    """The MODEL that the node's `source` input names, loaded as the host's own loaders do.

    source: {"source": "model input", "model"}, {"source": "diffusion_models", "unet_name",
    "weight_dtype"} or {"source": "checkpoints", "ckpt_name"}.
    """
    kind = source["source"]
    if kind == "model input":
        return source["model"]
    if kind == "diffusion_models":
        return host_nodes.UNETLoader().load_unet(source["unet_name"], source["weight_dtype"])[0]
    path = folder_paths.get_full_path_or_raise("checkpoints", source["ckpt_name"])
    embeddings = folder_paths.get_folder_paths("embeddings")
    return comfy.sd.load_checkpoint_guess_config(
        path, output_vae=False, output_clip=False, embedding_directory=embeddings
    )[0]


def source_stamp(source: Mapping[str, Any] | None) -> str:
    """Changes when the model file that a source names does; None: not known yet."""
    given = source or {}
    kinds = {"unet_name": "diffusion_models", "ckpt_name": "checkpoints"}
    return "\n".join(stamp(kind, given[name]) for name, kind in kinds.items() if name in given)


def weight_dtypes() -> list[str]:
    """The weight types the host's own diffusion model loader offers."""
    return list(host_nodes.UNETLoader.INPUT_TYPES()["required"]["weight_dtype"][0])


def basis_files() -> list[str]:
    """Names of the basis files in models/craft_bases and the user's further folders for them."""
    _register_folder()
    return folder_paths.get_filename_list(FOLDER)


def basis_path(name: str) -> str:
    """Full path of a basis file by its name; CraftError if it is not there."""
    _register_folder()
    path = path_by_name(FOLDER, name)
    if path is None:
        raise CraftError(
            f"There is no basis file {name!r}",
            f"Basis files are .safetensors files in {folder_paths.get_folder_paths(FOLDER)[0]}",
            "Put one there and refresh the page",
        )
    return path


def load_basis(name: str) -> Basis:
    """The basis file of that name, checked."""
    return basis_at(basis_path(name))


def basis_at(path: str) -> Basis:
    """The basis file there, checked, with its name and hash."""
    return replace(read_basis(path), name=os.path.basename(path), digest=hash_of(path)[:_DIGITS])


def require_part(name: str, which: Which) -> None:
    """CraftError unless `name` is a basis file that holds this part; reads its header alone."""
    if not read_header(basis_path(name)).has(which):
        raise CraftError(
            f"{name} has no {which} basis",
            "A file may hold content bases, style bases, or both",
            "Choose another part of it, or another file",
        )


def basis_stamp(name: str) -> str:
    """A text that changes when the file of that name changes."""
    status = os.stat(basis_path(name))
    return f"{status.st_mtime_ns}-{status.st_size}"


def _register_folder() -> None:
    """Make models/craft_bases, and output/craft_bases where trainings save, known to the host,
    beside any folder the user's paths file adds."""
    for root in (folder_paths.models_dir, folder_paths.get_output_directory()):
        folder_paths.add_model_folder_path(FOLDER, os.path.join(root, FOLDER))
    folder_paths.folder_names_and_paths[FOLDER][1].add(".safetensors")
