"""LoRAs fused into one file, by a run-time method at one moment or by a weight merge.

The one way to such a file: the node and both ways of the command (with a model, and by the files'
own names) read their LoRAs, and call this. A run-time method is planned as the Router plans it
(routing/plan.py). A weight merge is made of what the direct merge would add up. Text-encoder parts
are added up by strength whatever the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .fusion import FUSION, compose
from .lora.keys import LayerShapes, kohya_stems
from .lora.text_encoder import merge_text_encoders
from .merging import (
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
)
from .registry import Method
from .routing.plan import CandidateLora, PlanRequest, plan, used_sets
from .time import Moment
from .types import LoraFile


@dataclass(frozen=True)
class BakeRequest:
    """What the user asked for.

    method: of FUSION or MERGES. moment: at which a method that moves with time is taken.
    layer_sets, allow_unmatched, named: as in routing.plan.PlanRequest.
    """

    method: Method
    knobs: Mapping[str, Any]
    layer_sets: str
    moment: Moment
    writing: Writing
    allow_unmatched: bool = False
    named: bool = True


@dataclass(frozen=True)
class Ingredient:
    """A LoRA that goes in: as it is planned for, its file, and the SHA-256 of the whole file."""

    given: CandidateLora
    file: LoraFile
    sha256: str


@torch.no_grad()
def bake_file(
    request: BakeRequest,
    ingredients: Sequence[Ingredient],
    layers: LayerShapes,
    watch: Callable[[int, int], None],
) -> Fused:
    """The LoRAs as one; nothing is written yet. watch: called after each layer with (layers done,
    layers); raises to stop.

    Raises CraftError for mistakes, keys and patterns that match nothing among them unless allowed.
    """
    merges, writing = request.method.key in MERGES.keys(), request.writing
    planned, knobs = (FUSION["direct"], {}) if merges else (request.method, request.knobs)
    asked = PlanRequest(
        planned, knobs, request.layer_sets, allow_unmatched=request.allow_unmatched,
        named=request.named, whole=merges,
    )  # fmt: skip
    made = plan([one.given for one in ingredients], asked, layers)
    gates, moment = compose(made.gates, made.bank), request.moment
    if merges:
        baked = bake_merge(made.bank.branches, layers, request.method, request.knobs, writing)
    else:
        baked = bake_gates(made.bank, gates, moment, layers, writing)
    strengths = [one.given.branch.strength for one in ingredients]
    text = merge_text_encoders(
        [one.file for one in ingredients], strengths, writing.dtype, request.allow_unmatched
    )
    counts = zip(acting(made.bank, gates, moment), made.adapted, strict=True)
    recipe = FuseSettings(
        request.method, request.knobs,
        [_source(one, own) for one, own in zip(ingredients, counts, strict=True)], writing,
        moment if moves(gates, moment.steps) else None,
        "" if merges else used_sets(request.method, request.layer_sets),
    )  # fmt: skip
    watched = _watched(baked, len(made.bank.layers), watch)
    result = fused(recipe, watched, text, [*gates.notes, *made.notes])
    return replace(result, stems=kohya_stems(layers))


def _source(one: Ingredient, layers: tuple[int, int]) -> FuseSource:
    branch = one.given.branch
    return FuseSource(
        branch.name, branch.role, branch.strength, one.sha256, layers, one.given.layers
    )


def _watched(
    baked: Iterator[Baked | None], total: int, watch: Callable[[int, int], None]
) -> Iterator[Baked | None]:
    done = 0
    for one in baked:
        done += one is None or not one.of_bias  # a bias comes after its layer's weight
        watch(done, total)
        yield one
