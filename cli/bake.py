"""Bake LoRA files into one without a model: they meet by the names that they give the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from ..craft_core.errors import CraftError, listed
from ..craft_core.fusion import compose
from ..craft_core.lora import pair_energies
from ..craft_core.lora.storage import read_tensors
from ..craft_core.lora.text_encoder import merge_text_encoders
from ..craft_core.lora.without_model import Unplaced, read_together
from ..craft_core.merging import (
    MERGES,
    Baked,
    Fused,
    Recipe,
    Source,
    Writing,
    acting,
    bake_gates,
    bake_merge,
    fused,
    moves,
)
from ..craft_core.registry import Method
from ..craft_core.requests import Expert, FuseData, LayerWatch
from ..craft_core.routing.auto import split_by_energy
from ..craft_core.tensor_file import file_hash
from ..craft_core.training.registry import DTYPES
from ..craft_core.types import ROLES, Bank, Branch, Gates, Moment, Routing

KNOWN_SETS = ("auto", "all")  # the layer sets that need no names of a model's blocks


def read_files(files: Sequence[str]) -> Unplaced:
    """LoRA files by their paths, their layers matched by name."""
    return read_together([(Path(file).name, *read_tensors(Path(file))) for file in files])


@torch.no_grad()
def bake_without_model(data: FuseData, watch: LayerWatch) -> str:
    """Write the file; the report. The layers keep the first file's names.

    Raises CraftError for mistakes, names that are no layer's among them unless allowed.
    """
    unplaced = read_files([expert.file for expert in data.experts])
    faults = _require_matched(data, unplaced)
    branches = [
        Branch(Path(expert.file).name, expert.role, file.layers, expert.strength)
        for expert, file in zip(data.experts, unplaced.files, strict=True)
    ]
    result = _baked(data, unplaced, branches, watch)
    result.write(data.path, unplaced.stems)
    return "\n".join([result.report, *faults, *_met(branches, unplaced)])


def _baked(
    data: FuseData, unplaced: Unplaced, branches: Sequence[Branch], watch: LayerWatch
) -> Fused:
    writing = Writing(data.rank, DTYPES[data.save_as])
    bank = Bank.of(branches, list(unplaced.shapes))
    notes: tuple[str, ...] = ()
    moment, used_sets = None, ""
    adapted = [len(branch.layers) for branch in branches]
    if data.method.key in MERGES.keys():
        baked = bake_merge(branches, unplaced.shapes, data.method, data.knobs, writing)
        acts = [count if b.strength else 0 for count, b in zip(adapted, branches, strict=True)]
    else:
        gates = compose(_gates(data, bank), bank)
        at = Moment(data.progress, data.steps)
        moment = at if moves(gates.at, data.steps) else None
        used_sets = data.layer_sets if data.method.traits.layer_sets else ""
        baked = bake_gates(bank, gates, at, unplaced.shapes, writing)
        notes, acts = gates.notes, acting(bank, gates, at)
    strengths = [expert.strength for expert in data.experts]
    text = merge_text_encoders(unplaced.files, strengths, DTYPES[data.save_as])
    sources = _sources(data.experts, list(zip(acts, adapted, strict=True)))
    recipe = Recipe(data.method, data.knobs, sources, writing, moment, used_sets)
    return fused(recipe, _watched(baked, len(bank.layers), watch), text, notes)


def _gates(data: FuseData, bank: Bank) -> Gates:
    """A run-time method's gates with every marker present; a branch of strength 0 is off."""
    traits = data.method.traits
    require_known_sets(data.method, data.layer_sets)
    on = [branch for branch in bank.branches if branch.strength]
    auto = bool(on) and traits.layer_sets and data.layer_sets == "auto"
    energies = pair_energies(on, bank.layers) if auto or traits.energies else None
    sets = [frozenset(bank.layers)] * len(bank.branches)
    if auto:
        by_role = dict(zip(ROLES, split_by_energy(on, bank.layers, energies), strict=True))
        sets = [by_role[branch.role] for branch in bank.branches]
    gammas = tuple(float(branch.strength != 0.0) for branch in bank.branches)
    routing = Routing(gammas, tuple(sets), energies)
    return data.method.function(bank, routing, **data.knobs)


def require_known_sets(method: Method, layer_sets: str) -> None:
    """CraftError where a method's layer sets are named by a model's blocks."""
    traits = method.traits
    named = traits.pinned_layer_set or (layer_sets if traits.layer_sets else "all")
    if named not in KNOWN_SETS:
        raise CraftError(
            f"{method.key} with the layer sets {named.strip().splitlines()[0]} and no model",
            f"Without a model the layer sets {' and '.join(KNOWN_SETS)} are known",
            "Give the model with --checkpoint or --unet, or choose "
            + ("another method" if traits.pinned_layer_set else "--layer-sets auto"),
        )


def _require_matched(data: FuseData, unplaced: Unplaced) -> list[str]:
    """Report lines of the names that are no layer's; CraftError where they are not allowed."""
    faults = []
    for expert, file in zip(data.experts, unplaced.files, strict=True):
        if file.unmatched:
            faults.append(
                f"{Path(expert.file).name}: {len(file.unmatched)} keys "
                f"({listed(file.unmatched, 6)})"
            )
    if faults and not data.allow_unmatched:
        raise CraftError(
            "Something given matches nothing: " + "; ".join(faults),
            "Each key of a LoRA should be a part of a layer's update",
            "Use files that hold just a LoRA, or go without these keys by --allow-unmatched",
        )
    return [f"Matches nothing: {fault}" for fault in faults]


def _met(branches: Sequence[Branch], unplaced: Unplaced) -> Iterator[str]:
    """How well the files' names met."""
    having = [sum(path in b.layers for b in branches) for path in unplaced.shapes]
    if len(branches) > 1:
        shared = sum(count > 1 for count in having)
        yield (
            f"No model given: {shared} layers are in several files by their names, "
            f"{len(having) - shared} in one"
        )


def _sources(experts: Sequence[Expert], layers: Sequence[tuple[int, int]]) -> list[Source]:
    return [
        Source(Path(one.file).name, one.role, one.strength, file_hash(one.file), counts)
        for one, counts in zip(experts, layers, strict=True)
    ]


def _watched(baked: Iterator, total: int, watch: Callable[[int, int], None]) -> Iterator[Baked]:
    for done, one in enumerate(baked, 1):
        watch(done, total)
        yield one
