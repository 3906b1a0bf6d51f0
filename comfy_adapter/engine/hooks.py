"""Row-gated branches: torch forward hooks on exactly the adapted layers.

    y[rows] += gate * scale * (x[rows] down^T) up^T      or what another kind of update adds

A hook adds to what its layer returns; it never replaces `forward` and never touches a weight, so
packs that wrap forwards stack with it in any order, and quantised or streamed bases stay exact.
Hooks live on the model only while a sampling run lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...craft_core.errors import CraftError
from ...craft_core.types import Factors, LayerPass
from .bank import BranchPart


@dataclass(frozen=True)
class GatedChunks:
    """Chunks [start, stop) of a model call share one gate table.

    gates[layer][branch]: what multiplies a branch in a layer.
    """

    start: int
    stop: int
    gates: Sequence[Sequence[float]]


@dataclass
class ModelCall:
    """What the model call now under way asks of the hooks; empty runs mean: do nothing.

    chunks: number of conditionings stacked along the batch; chunk j owns the rows
    [j * b, (j + 1) * b), b = rows / chunks, in every layer.
    doubled: twice the call's rows, where models embed reference images at timestep 0: layers
    that see one vector for each row then get twice the rows: those of the call, and below them
    as many for the reference images.
    """

    chunks: int = 1
    runs: list[GatedChunks] = field(default_factory=list)
    doubled: int | None = None

    def set(self, chunks: int, runs: list[GatedChunks]) -> None:
        self.chunks, self.runs = chunks, runs

    def clear(self) -> None:
        self.set(1, [])
        self.doubled = None


@contextmanager
def attached(
    diffusion_model: nn.Module, layers: Mapping[str, Sequence[BranchPart]], call: ModelCall
) -> Iterator[None]:
    """Hooks on all adapted layers while the block runs; they are removed however it ends.

    layers: what the branches add to each, in the order of the gates.
    """
    handles = []
    try:
        for index, (path, parts) in enumerate(layers.items()):
            hook = LayerHook(index, path, parts, call)
            module = diffusion_model.get_submodule(path)
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class LayerHook:
    """The branches of one layer."""

    def __init__(self, index: int, path: str, parts: Sequence[BranchPart], call: ModelCall) -> None:
        self.index, self.path, self.call = index, path, call
        self.factors = [part for part in parts if isinstance(part.update, Factors)]
        self.others = [part for part in parts if not isinstance(part.update, Factors)]

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Any:
        for run in self.call.runs:
            gates = run.gates[self.index]
            if any(gates):
                x = args[0] if args else kwargs["input"]
                for rows in self._rows(run, output):
                    output = self._add(module, x, output, rows, gates)
        return output

    def _rows(self, run: GatedChunks, output: Tensor) -> list[slice]:
        rows, chunks = output.shape[0], self.call.chunks
        if run.start == 0 and run.stop == chunks:
            return [slice(0, rows)]
        if "experts" in self.path.split("."):
            raise CraftError(
                f"{self.path} sees the tokens of all conditionings mixed",
                "In a mixture of experts, asymmetric guidance cannot know which rows are whose",
                "Turn asymmetric off, or keep the LoRAs off the experts with layer patterns",
            )
        copies = 2 if output.ndim == 2 and rows == self.call.doubled else 1
        each, rest = divmod(rows, copies * chunks)
        if rest:
            raise CraftError(
                f"{self.path} was called with {rows} rows for {chunks} conditionings",
                "Asymmetric guidance needs to know which rows are whose",
                "Turn asymmetric off, or take out the node that rearranges this layer's batch",
            )
        starts = range(0, copies * chunks, chunks)
        return [slice((at + run.start) * each, (at + run.stop) * each) for at in starts]

    def _add(
        self, module: Any, x: Tensor, y: Tensor, rows: slice, gates: Sequence[float]
    ) -> Tensor:
        if torch.is_grad_enabled() and y.requires_grad:
            y = y.clone()
        own = [  # from what the layer itself returned, before anything is added
            (part, _added(module, x[rows], y[rows], part))
            for part in self.others
            if gates[part.branch]
        ]
        for part in self.factors:
            weight = gates[part.branch] * part.update.scale
            if weight:
                _add_factors(module, x[rows], y[rows], part, weight)
        for part, added in own:
            _add(y[rows], added, part, gates)
        return y


def _added(module: Any, x: Tensor, y: Tensor, part: BranchPart) -> Tensor:
    product = partial(_project, module)
    return part.at(x).added(LayerPass(x, y, product))


def _add(y: Tensor, added: Tensor, part: BranchPart, gates: Sequence[float]) -> None:
    update = part.update
    if update.rows is not None:
        y = y.narrow(1 if len(update.inputs) > 1 else -1, *update.rows)
    y.add_(added, alpha=gates[part.branch] * update.scale)


def _add_factors(module: Any, x: Tensor, y: Tensor, part: BranchPart, weight: float) -> None:
    """Add up (down x) to y, in place. The weight is a plain number: nothing waits for a device."""
    down, up = part.tensor("down", x), part.tensor("up", x)
    add = _up_conv if down.ndim > 2 else _up_linear
    add(y, _project(module, x, down), up, weight, part.update.rows)


def _project(module: Any, x: Tensor, down: Tensor) -> Tensor:
    """x through `down`: (B, ranks, *spatial) for a convolution, (B, ..., ranks) for a linear."""
    if down.ndim > 2:
        return module._conv_forward(x, down, None)
    return x @ down.T


def _up_linear(
    y: Tensor, hidden: Tensor, up: Tensor, alpha: float, rows: tuple[int, int] | None
) -> None:
    if rows is not None:
        y = y.narrow(-1, *rows)
    if y.is_contiguous():
        y.view(-1, y.shape[-1]).addmm_(hidden.reshape(-1, hidden.shape[-1]), up.T, alpha=alpha)
    else:
        y.add_(hidden @ up.T, alpha=alpha)


def _up_conv(
    y: Tensor, hidden: Tensor, up: Tensor, alpha: float, rows: tuple[int, int] | None
) -> None:
    if rows is not None:
        y = y.narrow(1, *rows)
    up = up.expand(y.shape[0], *up.shape)  # (B, out, ranks)
    if y.is_contiguous():
        y.view(*y.shape[:2], -1).baddbmm_(up, hidden.flatten(2), alpha=alpha)
    else:
        y.add_((up @ hidden.flatten(2)).view_as(y), alpha=alpha)
