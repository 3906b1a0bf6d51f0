"""A LoRA file measured block by block, and how the updates of two files compare."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...craft_core.errors import listed
from ...craft_core.lora.factors import combine, of_weights
from ...craft_core.lora.families import is_embedding
from ...craft_core.lora.storage import read_tensors
from ...craft_core.lora.text_encoder import count_matrices
from ...craft_core.lora.without_model import carried, read_together
from ...craft_core.merging.compare import UpdateComparison, UpdateSummary, compare, measure
from ...craft_core.projection import trained_backbone
from ...craft_core.requests import ModelFiles, Read
from ...craft_core.types import LayerUpdate, LoraFile
from ..host import enter
from ..progress import LayerProgressBar
from .columns import EXPLAINED

_BLOCK = re.compile(r"[A-Za-z_.]*?\d+(?:[._]\d+)*")
_PAIR = ("cosine", "up", "down", "conflict", "weighted")


@dataclass(frozen=True)
class Described:
    """A file. kinds: the kinds of tensors that are not described, and the number of each."""

    name: str
    file: LoraFile
    kinds: Mapping[str, int]


@dataclass(frozen=True)
class LayerReport:
    """files: by file, the measure of its update in this layer; None where it has none."""

    path: str
    files: tuple[UpdateSummary | None, ...]
    meeting: UpdateComparison | None = None

    @property
    def block(self) -> str:
        found = _BLOCK.match(self.path)
        return found[0] if found else self.path


def report_measures(options: Namespace, model: ModelFiles | None) -> None:
    """Print what is in the files of `options`, read against the model where there is one."""
    kinds: list[dict[str, int]] = [{} for _ in options.files]
    if model is None:
        read, kinds = _read(options.files)
    else:
        read = enter(options).read_loras(model, options.files)
    described = [
        Described(Path(name).name, file, counted)
        for name, file, counted in zip(options.files, read.files, kinds, strict=True)
    ]
    total = sum(_adapted(read.files, path) for path in read.shapes)
    layers = list(_watched(inspected(read.files, read.shapes), total))
    if options.json:
        print(json.dumps(_as_json(described, layers), indent=1))
    else:
        print("\n".join(_text(described, layers, model is not None)))


def _read(files: Sequence[str]) -> tuple[Read, list[dict[str, int]]]:
    """(the files, layers matched by name; by file, how many tensors of each kind are not read)."""
    states, kinds = [], []
    for file in files:
        state, metadata = read_tensors(Path(file))
        state, counted = carried(state)
        states.append((Path(file).name, state, metadata))
        kinds.append(counted)
    found = read_together(states, whole=False)
    return Read(found.shapes, found.files), kinds


def inspected(
    files: Sequence[LoraFile], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[LayerReport]:
    """Every adapted layer in the order of `shapes`, one at a time."""
    for path in shapes:
        if not _adapted(files, path):
            continue
        out = shapes[path][0]
        updates = [_measurable(file.layers.get(path)) for file in files]
        if not any(updates):
            continue
        found = tuple(None if own is None else measure(own, out) for own in updates)
        both = [
            combine(of_weights(own), out) for own in updates if own is not None and len(files) == 2
        ]
        meets = len(both) == 2 and both[0].inputs == both[1].inputs
        yield LayerReport(path, found, compare(*both) if meets else None)


def _measurable(
    updates: tuple[LayerUpdate, ...] | None,
) -> tuple[LayerUpdate, ...] | None:
    """None for what has no matrix without a model's weight."""
    return None if updates is None or any(one.on_weight for one in updates) else updates


def _unmeasured(file: LoraFile) -> list[str]:
    """The layers in which a file does what only a model's weights tell."""
    return [path for path in file.layers if _measurable(file.layers[path]) is None]


def _adapted(files: Sequence[LoraFile], path: str) -> bool:
    return any(path in file.layers for file in files)


def _watched(layers: Iterable[LayerReport], total: int) -> Iterator[LayerReport]:
    with LayerProgressBar() as watch:
        for done, layer in enumerate(layers, 1):
            yield layer
            watch(done, total)


def _as_json(described: Sequence[Described], layers: Sequence[LayerReport]) -> Any:
    return {
        "files": [
            {
                "name": one.name,
                "layers": len(one.file.layers),
                "text_encoder_matrices": count_matrices(one.file),
                "unmatched": list(one.file.unmatched),
                "cannot_act": list(one.file.faults),
                "not_described": dict(one.kinds),
                "not_measured": len(_unmeasured(one.file)),
                "metadata": dict(one.file.metadata),
            }
            for one in described
        ],
        "layers": [
            {
                "path": layer.path,
                "block": layer.block,
                "files": [
                    None
                    if one is None
                    else asdict(one)
                    | {
                        "kind": a_file.file.kinds[layer.path],
                        "cost": one.multiplications / one.entries,
                    }
                    for one, a_file in zip(layer.files, described, strict=True)
                ],
                "pair": None
                if layer.meeting is None
                else asdict(layer.meeting) | _pair_numbers([layer]),
            }
            for layer in layers
        ],
        "pair": _pair_numbers(layers) if len(described) == 2 else None,
    }


def _text(
    described: Sequence[Described], layers: Sequence[LayerReport], placed: bool
) -> Iterator[str]:
    files = len(described)
    for number, one in enumerate(described):
        yield from _summary("AB"[number], one, layers, number, placed)
    if not layers:
        return
    if files == 2:
        alone = [sum(layer.meeting is None and layer.files[i] is not None for layer in layers)
                 for i in (0, 1)]  # fmt: skip
        yield (
            f"{_layers(len(layers) - sum(alone))} in both, {alone[0]} in A alone, {alone[1]} in B "
            f"alone{'' if placed else ', by their names'}"
        )
    yield ""
    yield from _table(layers, files)
    yield ""
    yield EXPLAINED if files == 2 else "\n".join(EXPLAINED.splitlines()[:3])


def _summary(
    letter: str, one: Described, layers: Sequence[LayerReport], number: int, placed: bool
) -> Iterator[str]:
    file = one.file
    measures = [m for layer in layers if (m := layer.files[number]) is not None]
    yield f"{letter}  {one.name}"
    yield (
        f"   {_layers(len(measures))}, rank {_range(m.rank for m in measures)}, "
        f"alpha {_range(m.alpha for m in measures)}, |dW| {_size(measures):.4g}, "
        f"top-K sum {sum(m.top for m in measures):.4g} of {sum(m.total for m in measures):.4g}"
    )
    yield from _kinds(file, layers, number)
    matrices = count_matrices(file)
    yield f"   text encoder: {matrices or 'no'} matri{'x' if matrices == 1 else 'ces'}"
    unmeasured = _unmeasured(file)
    if unmeasured:
        kinds = ", ".join(dict.fromkeys(file.kinds[path] for path in unmeasured))
        yield (
            f"   {_layers(len(unmeasured))} not measured ({kinds}): what they do depends on the "
            "model's weights (give it with --checkpoint or --unet)"
        )
    if file.zeros:
        yield f"   all zeros, and left out: {file.zeros} differences"
    if one.kinds:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in one.kinds.items())
        yield f"   tensors not described, and refused by the other commands: {kinds}"
    if file.faults:
        yield f"   cannot act: {listed(file.faults, 3)}"
    basis = trained_backbone(file.metadata)
    if basis:
        yield f"   trained on the rank-limited backbone of {basis}"
    yield from (f"   {note}" for note in file.notes)
    embeddings = [key for key in file.unmatched if is_embedding(key)]
    others = [key for key in file.unmatched if key not in embeddings]
    if embeddings:
        yield f"   an embedding, which no LoRA loader applies: {listed(embeddings, 6)}"
    if others:
        yield f"   match nothing: {len(others)} ({listed(others, 6)})"
    elif placed and not embeddings:
        yield "   every key matches the model"


def _kinds(file: LoraFile, layers: Sequence[LayerReport], number: int) -> Iterator[str]:
    """A line for each kind of adapter: where, of what rank, and at what cost."""
    found: dict[str, list[UpdateSummary]] = {}
    for layer in layers:
        one = layer.files[number]
        if one is not None:
            found.setdefault(file.kinds[layer.path], []).append(one)
    for kind, own in found.items():
        shares = [one.multiplications / one.entries for one in own]
        whole = sum(one.multiplications for one in own) / sum(one.entries for one in own)
        yield (
            f"   {kind} in {_layers(len(own))}: rank {_range(m.rank for m in own)}, cost "
            f"{whole:.2%} of these layers ({min(shares):.2%} to {max(shares):.2%})"
        )


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"


def _table(layers: Sequence[LayerReport], files: int) -> Iterator[str]:
    """A line for each block, and one for all of them."""
    blocks: dict[str, list[LayerReport]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    width = max(len(name) for name in [*blocks, "all"])
    columns = [f"{letter} {what}" for letter in "AB"[:files] for what in ("|dW|", "top-K")]
    pair = _PAIR if files == 2 else ()
    yield "  ".join([f"{'block':<{width}}", "layers", *(f"{c:>9}" for c in (*columns, *pair))])
    for name, inside in [*blocks.items(), ("all", list(layers))]:
        yield "  ".join([f"{name:<{width}}", f"{len(inside):>6}", *_cells(inside, files)])


def _cells(layers: Sequence[LayerReport], files: int) -> Iterator[str]:
    for number in range(files):
        measures = [m for layer in layers if (m := layer.files[number]) is not None]
        if measures:
            top, total = sum(m.top for m in measures), sum(m.total for m in measures)
            yield f"{_size(measures):>9.4g}"
            yield f"{top / total if total else 0.0:>9.1%}"
        else:
            yield from (f"{'-':>9}",) * 2
    if files == 2:
        numbers = _pair_numbers(layers)
        for what in _PAIR:
            value = numbers[what]
            share = what in ("conflict", "weighted")
            yield f"{'-':>9}" if value is None else f"{value:>9.1%}" if share else f"{value:>9.3f}"


def _pair_numbers(layers: Sequence[LayerReport]) -> dict[str, float | None]:
    """The pair's numbers over the layers that both adapt; None where one is undefined."""
    shared = [(layer.files, layer.meeting) for layer in layers if layer.meeting is not None]
    meetings = [meeting for _, meeting in shared]
    sizes = [_size([files[i] for files, _ in shared if files[i] is not None]) for i in (0, 1)]
    both, least = sum(m.both for m in meetings), sum(m.least for m in meetings)
    return {
        "cosine": _ratio(sum(m.inner for m in meetings), sizes[0] * sizes[1]),
        "up": _ratio(sum(m.up for m in meetings), len(meetings)),
        "down": _ratio(sum(m.down for m in meetings), len(meetings)),
        "conflict": _ratio(sum(m.conflicts for m in meetings), both),
        "weighted": _ratio(sum(m.lost for m in meetings), least),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _size(measures: Iterable[Any]) -> float:
    return sum(m.size**2 for m in measures) ** 0.5


def _range(values: Iterable[float]) -> str:
    found = sorted(set(values))
    if not found:
        return "-"
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}"
