"""Bake LoRA files into one without a model: they meet by the names that they give the layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..craft_core.baking import BakeRequest, Ingredient, bake_file
from ..craft_core.file_hash import file_hash
from ..craft_core.lora.storage import read_tensors
from ..craft_core.lora.without_model import Unplaced, read_together
from ..craft_core.merging import Writing
from ..craft_core.requests import FuseData, LayerCallback
from ..craft_core.routing.plan import CandidateLora
from ..craft_core.time import Moment
from ..craft_core.training.registry import DTYPES
from ..craft_core.types import Branch


def read_files(files: Sequence[str], allow: bool = False) -> Unplaced:
    """LoRA files by their paths, their layers matched by name. allow: without what cannot act."""
    states = [(Path(file).name, *read_tensors(Path(file))) for file in files]
    return read_together(states, allow=allow)


def bake_without_model(data: FuseData, watch: LayerCallback) -> str:
    """Write the file; the report. The layers keep the first file's names.

    Raises CraftError for mistakes, names that are no layer's among them unless allowed.
    """
    unplaced = read_files([expert.file for expert in data.experts], data.allow_unmatched)
    branches = [
        Branch(Path(expert.file).name, expert.role, file.layers, expert.strength)
        for expert, file in zip(data.experts, unplaced.files, strict=True)
    ]
    request = BakeRequest(
        data.method, data.knobs, data.layer_sets, Moment(data.progress, data.steps),
        Writing(data.rank, DTYPES[data.save_as]), data.allow_unmatched, named=False,
    )  # fmt: skip
    ingredients = [
        Ingredient(
            CandidateLora(
                branch, unmatched=file.unmatched, cannot_act=file.faults, notes=file.notes
            ),
            file,
            file_hash(expert.file),
        )
        for branch, file, expert in zip(branches, unplaced.files, data.experts, strict=True)
    ]
    result = bake_file(request, ingredients, unplaced.shapes, watch)
    result.write(data.path, unplaced.stems)
    return "\n".join([result.report, *_met(branches, unplaced)])


def _met(branches: Sequence[Branch], unplaced: Unplaced) -> Iterator[str]:
    """How well the files' names met."""
    having = [sum(path in b.layers for b in branches) for path in unplaced.shapes]
    if len(branches) > 1:
        shared = sum(count > 1 for count in having)
        yield (
            f"No model given: {shared} layers are in several files by their names, "
            f"{len(having) - shared} in one"
        )
