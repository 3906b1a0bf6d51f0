"""LoRAs of the host's folders baked into one file, for the node and for the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ...craft_core.errors import CraftError
from ...craft_core.fusion import FUSION
from ...craft_core.fusion.compose import compose
from ...craft_core.lora.text_encoder import TextPart, merge_text_encoders
from ...craft_core.merging import (
    MERGES,
    Baked,
    Fused,
    FuseSettings,
    FuseSource,
    Writing,
    acting,
    bake_gates,
    bake_merge,
    fused,
    moves,
    require_rank,
)
from ...craft_core.registry import Method
from ...craft_core.requests import LayerCallback
from ...craft_core.routing.plan import used_sets
from ...craft_core.tensor_file import Taken
from ...craft_core.time import Moment
from ...craft_core.training.registry import DTYPES
from ...craft_core.types import LoraFile
from ..engine.modules import lora_layers
from ..model.expert_encoder import lora_hash
from ..model.lora_files import BranchFile, read_branch_file
from ..model.weights import patched_weights
from ..train.run import SavePlace, require_name
from .router import RouterRequest, planned

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

    @property
    def writing(self) -> Writing:
        return Writing(self.rank, DTYPES[self.save_as])


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
    files = [read_branch_file(one, model, request.allow_unmatched) for one in request.branches]
    bake = _merged if request.method["method"] in MERGES.keys() else _gated
    with torch.no_grad():
        return bake(model, request, files, watch)


def save_fused(result: Fused, place: SavePlace) -> SavePlace:
    """Write the file to its place, or to the next free one."""
    while True:
        place = place.free()
        place.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            result.write(place.path)
        except Taken:  # another run was faster: the next place
            continue
        return place


def _merged(
    model: Any, request: FuseRequest, files: Sequence[LoraFile], watch: LayerCallback
) -> Fused:
    layers, writing = lora_layers(model), _on_device(request, model)
    settings = {key: value for key, value in request.method.items() if key != "method"}
    method = MERGES[request.method["method"]]
    knobs = method.knobs(settings)
    # It merges what the direct merge adds up.
    routing = _routing_request(replace(request, method={"method": "direct"}))
    made = planned(model, routing, None, files, whole=True)
    acts = acting(made.bank, compose(made.gates, made.bank), Moment(0.0, 1))
    baked = bake_merge(made.bank.branches, layers, method, knobs, writing)
    watched = _watched(baked, len(made.bank.layers), watch)
    recipe = FuseSettings(method, knobs, _sources(request, acts, made.adapted), writing)
    return fused(recipe, watched, _text(request, files), made.notes)


def _gated(
    model: Any, request: FuseRequest, files: Sequence[LoraFile], watch: LayerCallback
) -> Fused:
    routing, writing = _routing_request(request), _on_device(request, model)
    made = planned(model, routing, None, files)
    gates = compose(made.gates, made.bank)
    moment = Moment(request.progress, request.steps)
    timed = moves(gates.at, request.steps)
    baked = bake_gates(made.bank, gates, moment, lora_layers(model), writing)
    method = FUSION[request.method["method"]]
    knobs = {key: value for key, value in request.method.items() if key != "method"}
    recipe = FuseSettings(
        method, method.knobs(knobs),
        _sources(request, acting(made.bank, gates, moment), made.adapted), writing,
        moment if timed else None,
        used_sets(method, routing.layer_sets),
    )  # fmt: skip
    watched = _watched(baked, len(made.bank.layers), watch)
    return fused(recipe, watched, _text(request, files), [*gates.notes, *made.notes])


def _routing_request(request: FuseRequest) -> RouterRequest:
    """No prompt here: every marker counts as there."""
    return RouterRequest(
        "", request.branches, request.layer_sets, request.method,
        allow_unmatched=request.allow_unmatched,
    )  # fmt: skip


def _on_device(request: FuseRequest, model: Any) -> Writing:
    """On the model's device where that has double precision, else on the processor."""
    device = model.load_device if model.load_device.type == "cuda" else torch.device("cpu")
    return replace(request.writing, device=device, weights=patched_weights(model, device))


def _sources(
    request: FuseRequest, acting_in: Sequence[int], adapted: Sequence[int]
) -> list[FuseSource]:
    return [
        FuseSource(b.name, b.role, b.strength, lora_hash(b), counts, b.layers)
        for b, counts in zip(request.branches, zip(acting_in, adapted, strict=True), strict=True)
    ]


def _text(request: FuseRequest, files: Sequence[LoraFile]) -> TextPart:
    return merge_text_encoders(
        files, [b.strength for b in request.branches], DTYPES[request.save_as],
        request.allow_unmatched,
    )  # fmt: skip


def _watched(
    baked: Iterable[Baked | None], total: int, watch: LayerCallback
) -> Iterator[Baked | None]:
    done = 0
    for one in baked:
        done += one is None or not one.of_bias  # a bias comes after its layer's weight
        watch(done, total)
        yield one
