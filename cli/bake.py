"""Write LoRA files into one without a model: two layers are the same where their names say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from ..craft_core.fusion import FUSION, compose
from ..craft_core.lora.storage import read_tensors
from ..craft_core.lora.text_encoder import merge_text_encoders
from ..craft_core.lora.without_model import Unplaced, read_together
from ..craft_core.merging import (
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
from ..craft_core.requests import Expert, FuseData, LayerCallback
from ..craft_core.routing.plan import CandidateLora, PlanRequest, plan, used_sets
from ..craft_core.tensor_file import file_hash
from ..craft_core.time import Moment
from ..craft_core.training.registry import DTYPES
from ..craft_core.types import Branch


def read_files(files: Sequence[str]) -> Unplaced:
    """LoRA files by their paths, their layers matched by name."""
    return read_together([(Path(file).name, *read_tensors(Path(file))) for file in files])


@torch.no_grad()
def bake_without_model(data: FuseData, watch: LayerCallback) -> str:
    """Write the file; the report. The layers keep the first file's names.

    Raises CraftError for a user's mistake; a name that belongs to no layer is one unless allowed.
    """
    unplaced = read_files([expert.file for expert in data.experts])
    branches = [
        Branch(Path(expert.file).name, expert.role, file.layers, expert.strength)
        for expert, file in zip(data.experts, unplaced.files, strict=True)
    ]
    result = _baked(data, unplaced, branches, watch)
    result.write(data.path, unplaced.stems)
    return "\n".join([result.report, *_met(branches, unplaced)])


def _baked(
    data: FuseData, unplaced: Unplaced, branches: Sequence[Branch], watch: LayerCallback
) -> Fused:
    merges = data.method.key in MERGES.keys()
    # A merge combines the updates that the direct merge would add up.
    method, knobs = (FUSION["direct"], {}) if merges else (data.method, data.knobs)
    asked = PlanRequest(
        method, knobs, data.layer_sets, allow_unmatched=data.allow_unmatched, named=False,
        whole=merges,
    )  # fmt: skip
    pairs = zip(branches, unplaced.files, strict=True)
    made = plan(
        [CandidateLora(one, unmatched=file.unmatched, notes=file.notes) for one, file in pairs],
        asked,
        unplaced.shapes,
    )
    gates, at = compose(made.gates, made.bank), Moment(data.progress, data.steps)
    writing = Writing(data.rank, DTYPES[data.save_as])
    if merges:
        baked = bake_merge(made.bank.branches, unplaced.shapes, data.method, data.knobs, writing)
    else:
        baked = bake_gates(made.bank, gates, at, unplaced.shapes, writing)
    strengths = [expert.strength for expert in data.experts]
    text = merge_text_encoders(unplaced.files, strengths, DTYPES[data.save_as])
    acts = acting(made.bank, gates, at)
    recipe = FuseSettings(
        data.method, data.knobs, _sources(data.experts, list(zip(acts, made.adapted, strict=True))),
        writing, at if moves(gates.at, data.steps) else None,
        "" if merges else used_sets(data.method, data.layer_sets),
    )  # fmt: skip
    watched = _watched(baked, len(made.bank.layers), watch)
    return fused(recipe, watched, text, [*gates.notes, *made.notes])


def _met(branches: Sequence[Branch], unplaced: Unplaced) -> Iterator[str]:
    """How many layers the files have in common, by their names."""
    having = [sum(path in b.layers for b in branches) for path in unplaced.shapes]
    if len(branches) > 1:
        shared = sum(count > 1 for count in having)
        yield (
            f"No model given: {shared} layers are in several files by their names, "
            f"{len(having) - shared} in one"
        )


def _sources(experts: Sequence[Expert], layers: Sequence[tuple[int, int]]) -> list[FuseSource]:
    return [
        FuseSource(Path(one.file).name, one.role, one.strength, file_hash(one.file), counts)
        for one, counts in zip(experts, layers, strict=True)
    ]


def _watched(baked: Iterator, total: int, watch: Callable[[int, int], None]) -> Iterator[Baked]:
    for done, one in enumerate(baked, 1):
        watch(done, total)
        yield one
