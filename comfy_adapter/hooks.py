"""Row-gated low-rank branches: torch forward hooks on exactly the adapted layers.

    y[rows] += gate * scale * (x[rows] down^T) up^T

A hook adds to what its layer returns; it never replaces `forward` and never touches a weight, so
packs that wrap forwards stack with it in any order, and quantised or streamed bases stay exact.
Hooks live on the model only while a sampling run lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .bank import BankModule, Group


@dataclass(frozen=True)
class Run:
    """Chunks [start, stop) of a model call share one gate table.

    gates[layer][branch]: what multiplies a branch in a layer.
    """

    start: int
    stop: int
    gates: Sequence[Sequence[float]]


@dataclass
class Call:
    """What the model call now under way asks of the hooks; empty runs mean: do nothing.

    chunks: number of conditionings stacked along the batch; chunk j owns the rows
    [j * b, (j + 1) * b), b = rows / chunks, in every layer.
    """

    chunks: int = 1
    runs: list[Run] = field(default_factory=list)

    def set(self, chunks: int, runs: list[Run]) -> None:
        self.chunks, self.runs = chunks, runs

    def clear(self) -> None:
        self.set(1, [])


@contextmanager
def attached(
    diffusion_model: nn.Module, layers: Sequence[str], bank: BankModule, call: Call
) -> Iterator[None]:
    """Hooks of all layers on for the duration of the block, and off after it, come what may."""
    handles = []
    try:
        for index, path in enumerate(layers):
            hook = LayerHook(index, path, bank, call)
            module = diffusion_model.get_submodule(path)
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class LayerHook:
    """The branches of one layer."""

    def __init__(self, index: int, path: str, bank: BankModule, call: Call) -> None:
        self.index, self.path, self.bank, self.call = index, path, bank, call
        self.groups = bank.groups[index]

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Any:
        for run in self.call.runs:
            gates = run.gates[self.index]
            if any(gates):
                x = args[0] if args else kwargs["input"]
                output = self._add(module, x, output, self._rows(run, output.shape[0]), gates)
        return output

    def _rows(self, run: Run, rows: int) -> slice:
        if run.start == 0 and run.stop == self.call.chunks:
            return slice(0, rows)
        each, rest = divmod(rows, self.call.chunks)
        if rest:
            raise RuntimeError(
                f"{self.path} was called with {rows} rows, which {self.call.chunks} conditionings "
                "cannot share evenly, so its content and style branches have no rows of their own."
            )
        return slice(run.start * each, run.stop * each)

    def _add(
        self, module: Any, x: Tensor, y: Tensor, rows: slice, gates: Sequence[float]
    ) -> Tensor:
        if torch.is_grad_enabled() and y.requires_grad:
            y = y.clone()
        for group in self.groups:
            _add_group(module, x[rows], y[rows], group, self.bank, gates)
        return y


def _add_group(
    module: Any, x: Tensor, y: Tensor, group: Group, bank: BankModule, gates: Sequence[float]
) -> None:
    """Add one group to y, in place."""
    active = [(slot, gates[slot.branch] * slot.scale) for slot in group.slots]
    active = [(slot, weight) for slot, weight in active if weight != 0.0]
    if not active:
        return
    down, up = bank.factors(group, x)
    first, last = active[0][0], active[-1][0]
    span = slice(first.start, last.start + last.rank)
    down, up = down[span], up[:, span]  # (ranks, n, *kernel), (out, ranks)
    hidden, alpha = _project(module, x, down), active[0][1]
    if any(weight != alpha for _, weight in active) or _has_gap(active):
        hidden = hidden * _rank_weights(active, span, hidden, conv=down.ndim > 2)
        alpha = 1.0
    if down.ndim > 2:
        _up_conv(y, hidden, up, alpha, group.rows)
    else:
        _up_linear(y, hidden, up, alpha, group.rows)


def _has_gap(active: list) -> bool:
    """Whether a switched-off branch lies between two active ones."""
    ends = [slot.start + slot.rank for slot, _ in active[:-1]]
    return any(end != slot.start for end, (slot, _) in zip(ends, active[1:], strict=True))


def _rank_weights(active: list, span: slice, like: Tensor, conv: bool) -> Tensor:
    weights = [0.0] * (span.stop - span.start)
    for slot, weight in active:
        at = slot.start - span.start
        weights[at : at + slot.rank] = [weight] * slot.rank
    row = torch.tensor(weights, dtype=like.dtype, device=like.device)  # (ranks,)
    return row.view(-1, *[1] * (like.ndim - 2)) if conv else row


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
