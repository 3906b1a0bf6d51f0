"""Branches in models that torch.compile has compiled.

A compiled graph keeps Python's numbers as constants. So here gates are one tensor, written anew
for each model call, that hooks read inside the graph: a model has a set of graphs with branches
and one without, whatever schedule, strengths and prompts do.

torch.compile reuses a graph without looking for hooks that came after it was traced. Calls in
which branches act therefore run under a mark in the thread's state by which torch.compile tells
its graphs apart, and while they are traced it is told to look for hooks. Both end with the call
and the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor, nn

from ...craft_core.errors import CraftError
from ...craft_core.types import Factors, add_product
from .hooks import Hooks, LayerHook, ModelCall, act, attached
from .modules import is_norm, output_axis

_COMPILED = "torch.compile"  # under which the host's node wraps model calls


class GraphHook(LayerHook):
    """A LayerHook that torch.compile can trace, and in few steps, since tracing takes long.

    at: the column of its first part's amount. is_plain: whether its updates are all low-rank ones
    of a linear layer or a convolution without groups, which take a shorter way. factors: then, of
    each, down and up as the host has them at this call.
    """

    def __init__(self, hook: LayerHook, module: Any, at: int) -> None:
        vars(self).update(vars(hook))
        self.at = at
        self.is_convolution, self.axis = hasattr(module, "kernel_size"), output_axis(module)
        self.is_plain = (
            not is_norm(module)
            and getattr(module, "groups", 1) == 1
            and all(type(part.update) is Factors for part in hook.parts)
        )
        self.columns = [(at + place, part.update.rows) for place, part in enumerate(hook.parts)]
        self.factors: list[tuple[Tensor, Tensor]] = []

    def refresh(self) -> None:
        if self.is_plain:
            self.factors = [(part.held("down"), part.held("up")) for part in self.parts]

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Any:
        x, call = args[0] if args else kwargs["input"], self.call
        for index, run in enumerate(call.runs):
            numbers = call.numbers[index]
            if run.start == 0 and run.stop == call.chunks:
                self._add_all(module, x, output, numbers)
            else:
                for rows in self._rows(run, output):
                    self._add_all(module, x[rows], output[rows], numbers)
        return output

    def _add_all(self, module: Any, x: Tensor, y: Tensor, numbers: Tensor) -> None:
        if not self.is_plain:
            for place, part in enumerate(self.parts):
                act(module, x, y, part.at(x, numbers[0]), numbers[self.at + place])
            return
        for (column, rows), (down, up) in zip(self.columns, self.factors, strict=True):
            down, up = down.to(x), up.to(x)
            hidden = module._conv_forward(x, down, None) if self.is_convolution else x @ down.T
            covered = y if rows is None else y.narrow(self.axis, *rows)
            add_product(covered, hidden, up, numbers[column], self.is_convolution)


def graph_hooks(hooks: Hooks) -> Hooks:
    """The same hooks as torch.compile can trace them."""
    made, at = [], 1
    for module, hook in hooks:
        made.append((module, GraphHook(hook, module, at)))
        at += len(hook.parts)
    return made


def set_numbers(call: ModelCall, hooks: Hooks, device: torch.device) -> None:
    """The numbers of a call as its graph reads them, (runs, 1 + parts): the share, and for each
    part in the order of the hooks its gate times its scale. Nothing waits for the device."""
    rows = [
        [call.share]
        + [
            run.gates[hook.index][part.branch] * part.update.scale
            for _, hook in hooks
            for part in hook.parts
        ]
        for run in call.runs
    ]
    for _, hook in hooks:
        hook.refresh()
    numbers = torch.tensor(rows, dtype=torch.float32)
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    call.numbers = numbers.to(device, non_blocking=True)


def branches_in_compiled(
    hooks: Hooks, call: ModelCall
) -> Callable[[torch.device], AbstractContextManager[None]]:
    """What a call of a compiled model runs in while branches act, by the device of its inputs: in
    graphs, or uncompiled where an update is taken of the weight that it meets, anew where gates
    change. Asked for before the run's first call."""
    if any(part.update.on_weight for _, hook in hooks for part in hook.parts):
        return partial(_eagerly, hooks)
    mark = not torch.is_autocast_cache_enabled()
    return partial(_in_graphs, graph_hooks(hooks), call, mark)


@contextmanager
def _in_graphs(hooks: Hooks, call: ModelCall, mark: bool, device: torch.device) -> Iterator[None]:
    set_numbers(call, hooks, device)
    with attached(hooks), _marked(mark):
        yield


@contextmanager
def _eagerly(hooks: Hooks, device: torch.device) -> Iterator[None]:
    with attached(hooks), eager():
        yield


@contextmanager
def _marked(mark: bool) -> Iterator[None]:
    """Within this block the thread runs graphs that were traced under the mark, and no others.

    The mark is whether autocast keeps its casts, which torch.compile guards every graph by; it
    changes no number.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(mark)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def looking_for_hooks() -> AbstractContextManager:
    """Within this block torch.compile guards the graphs that it traces by the hooks of modules."""
    import torch._dynamo

    return torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)


def is_compiled(guider: Any) -> bool:
    """Whether torch.compile runs any part of this model: by the host's node, or in place."""
    options = guider.model_options.get("transformer_options", {})
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    by_host = options.get("wrappers", {}).get(kind, {}).get(_COMPILED)
    modules = guider.model_patcher.model.diffusion_model.modules()
    return bool(by_host) or any(
        type(m).__name__ == "OptimizedModule" or getattr(m, "_compiled_call_impl", None)
        for m in modules
    )


def eager() -> AbstractContextManager:
    """Within this block compiled models run eagerly."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None:
        raise CraftError(
            f"The model is compiled and torch is {torch.__version__}",
            "Routed LoRAs can switch compiling off for their steps from torch 2.6 on",
            "Update torch, or take out the node that compiles the model",
        )
    return set_stance("force_eager")
