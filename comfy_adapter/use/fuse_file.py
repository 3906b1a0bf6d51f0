"""LoRAs of the host's folders baked into one file, for the node and for the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ...craft_core.baking import BakeRequest, Ingredient, bake_file
from ...craft_core.errors import CraftError
from ...craft_core.fusion import FUSION
from ...craft_core.merging import MERGES, Fused, Writing, require_rank
from ...craft_core.registry import Method
from ...craft_core.requests import LayerCallback
from ...craft_core.time import Moment
from ...craft_core.training.registry import DTYPES
from ..engine.modules import lora_layers
from ..model.expert_encoder import lora_hash
from ..model.given import given, kept
from ..model.lora_files import BranchFile, read_branch_file
from ..model.weights import patched_weights
from ..page.widgets import chosen
from ..train.run import SavePlace, require_name, write_new

METHODS: tuple[Method, ...] = (*(one for one in FUSION if not one.traits.averages), *MERGES)
SAVED_AS = tuple(DTYPES)


@dataclass(frozen=True)
class FuseRequest:
    """What the user asked for. method: the menu's value, {"method": key, knob: value}.

    progress, steps: the moment at which a method that moves with time is taken. rank: 0 for
    exact. save_as: a key of DTYPES.
    """

    branches: tuple[BranchFile, ...]
    layer_sets: str
    method: dict[str, Any]
    progress: float = 0.5
    steps: int = 20
    rank: int = 0
    save_as: str = "fp16"
    allow_unmatched: bool = False


def check_fuse(name: str | None, layer_sets: Any, method: Any, rank: int | None) -> bool | str:
    """True, or why the inputs cannot work. name, rank: None where they are linked. layer_sets,
    method: None where the menu has no such entry."""
    if layer_sets is None:
        return "layer_sets: choose an entry of the menu."
    if method is None:
        return f"method: choose one of {', '.join(one.key for one in METHODS)}."
    key = method["method"] if isinstance(method, dict) else method
    try:
        if name is not None:
            require_name(name)
        if rank is not None and key in MERGES.keys():
            require_rank(MERGES[key], rank)
    except CraftError as error:
        return str(error)
    return True


class LayerProgress:
    """The node's progress bar over layers; stops when the user does."""

    def __init__(self) -> None:
        self._bar: comfy.utils.ProgressBar | None = None

    def __call__(self, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar = self._bar or comfy.utils.ProgressBar(total)
        self._bar.update_absolute(done, total)


def fuse_branches(model: Any, request: FuseRequest, watch: LayerCallback) -> Fused:
    """The branches as one LoRA for this MODEL; nothing is written yet.

    Text-encoder parts are added up by strength whatever the method. Raises CraftError for
    mistakes, keys of the diffusion model that match nothing among them unless allowed.
    """
    if not request.branches:
        raise CraftError(
            "No LoRA is chosen", "A file is made of one LoRA or more", "Choose a content or a style"
        )
    method, knobs = _chosen(request)
    wanted = BakeRequest(
        method, knobs, request.layer_sets, Moment(request.progress, request.steps),
        _on_device(request, model), request.allow_unmatched,
    )  # fmt: skip
    allow = request.allow_unmatched
    ingredients = [_ingredient(one, model, allow) for one in request.branches]
    with kept():
        return bake_file(wanted, ingredients, lora_layers(model), watch)


def save_fused(result: Fused, place: SavePlace) -> SavePlace:
    """Write the file to its place, or to the next free one."""
    return write_new(place, result.write)


def _chosen(request: FuseRequest) -> tuple[Method, dict[str, Any]]:
    """The menu's entry, and its checked settings."""
    registry = MERGES if request.method["method"] in MERGES.keys() else FUSION
    return chosen(request.method, "method", registry)


def _ingredient(one: BranchFile, model: Any, allow: bool) -> Ingredient:
    file = read_branch_file(one, model, allow)
    return Ingredient(given(one, file, model, None), file, lora_hash(one))


def _on_device(request: FuseRequest, model: Any) -> Writing:
    """On the model's device where that has double precision, else on the processor."""
    device = model.load_device if model.load_device.type == "cuda" else torch.device("cpu")
    _make_room(device, model, len(request.branches))
    weights = patched_weights(model, device)
    return Writing(request.rank, DTYPES[request.save_as], device, weights)


def _make_room(device: torch.device, model: Any, branches: int) -> None:
    """The host moves models off a card until it holds what a layer takes: each branch's whole dW,
    their sum, and two more while that is cut to a rank."""
    if device.type == "cpu":
        return
    largest = max(math.prod(shape) for shape in lora_layers(model).values())
    comfy.model_management.free_memory((branches + 3) * largest * torch.float32.itemsize, device)
