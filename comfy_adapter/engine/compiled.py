"""Branches in models that torch.compile has compiled.

A compiled graph keeps Python's numbers as constants. So here gates are one tensor, written anew
for each model call, that hooks read inside the graph: a model has one set of graphs with branches
and one without, whatever schedules, strengths and prompts do.

torch.compile reuses a graph without looking for hooks that came after it was traced. Calls in
which branches act therefore run under a mark in the thread's state by which torch.compile tells
graphs apart, and while such a run lasts it is told to look for hooks in all that it traces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor, nn

from ...craft_core.errors import CraftError
from ...craft_core.types import LayerUpdate
from .hooks import Hooks, LayerHook, ModelCall, act, attached

_BY_HOST = "torch.compile"  # the host's node wraps model calls under this name
_SINCE = (2, 11)  # before, torch.compile traces anew whenever a hook comes back


def is_compiled(patcher: Any, options: dict[str, Any]) -> bool:
    """Whether torch.compile runs any part of a MODEL: by the host's node, or in place. options:
    the model options with which it is sampled."""
    return compiled_by_host(options) or any(
        type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None)
        for module in patcher.model.diffusion_model.modules()
    )


def compiled_by_host(options: dict[str, Any]) -> bool:
    """Whether the host's node compiles a MODEL. options: those with which it is sampled."""
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    return bool(wrappers.get(kind, {}).get(_BY_HOST))


def why_uncompiled(updates: Iterable[LayerUpdate]) -> str | None:
    """Why a compiled MODEL runs uncompiled while these act; None where it stays compiled."""
    if torch.torch_version.TorchVersion(torch.__version__) < _SINCE:
        return f"torch is {torch.__version__}, and needs to be 2.11 or newer for that"
    if any(update.on_weight for update in updates):
        return "DoRA, OFT, BOFT and GLoRA are taken from the weights anew where gates change"
    return None


def uncompiled_line(why: str) -> str:
    """As a report or a log says it."""
    return f"torch.compile: the MODEL runs uncompiled while its LoRAs act; {why}"


class Graphs:
    """The model calls of a compiled model in a run, its graphs with branches and without.

    Hooks stay from one call with branches to the next: torch.compile checks quickly what nobody has
    touched since it last looked.
    """

    def __init__(self, hooks: Hooks, call: ModelCall) -> None:
        self._hooks, self._call = _graph_hooks(hooks), call
        self._mark = not torch.is_autocast_cache_enabled()
        self._attached = ExitStack()
        self._are_on = False

    @contextmanager
    def with_branches(self, device: torch.device) -> Iterator[None]:
        """What a call in which branches act runs in. device: its inputs'."""
        _set_numbers(self._call, self._hooks, device)
        if not self._are_on:
            self._attached.enter_context(attached(self._hooks))
            self._are_on = True
        with _marked(self._mark):
            yield

    def without(self) -> None:
        """Called before a call in which no branch acts, and when the run ends."""
        self._attached.close()
        self._are_on = False


def looking_for_hooks() -> AbstractContextManager:
    """Within this block torch.compile guards the graphs that it traces by the hooks of modules."""
    import torch._dynamo  # takes seconds, and a compiled model has it

    return torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)


def uncompiled() -> AbstractContextManager:
    """Within this block, in every thread, compiled models run uncompiled."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None:
        raise CraftError(
            f"The model is compiled and torch is {torch.__version__}",
            "Routed LoRAs can switch compiling off for their steps from torch 2.6 on",
            "Update torch, or take out the node that compiles the model",
        )
    return set_stance("force_eager")


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


def _set_numbers(
    call: ModelCall, hooks: list[tuple[nn.Module, GraphHook]], device: torch.device
) -> None:
    """The numbers of a call as its graphs read them, (runs, 1 + parts): the share, and for each
    part in the order of the hooks its gate times its scale. Nothing waits for a CUDA device."""
    rows = [[call.share] for _ in call.runs]
    for _, hook in hooks:
        hook.refresh()
        for row, run in zip(rows, call.runs, strict=True):
            gates = run.gates[hook.index]
            row += [gates[part.branch] * part.update.scale for part in hook.parts]
    numbers = torch.tensor(rows, dtype=torch.float32)
    # From memory that is not pinned, a copy may still run when that memory is freed.
    pinned = device.type == "cuda"
    if pinned:
        numbers = numbers.pin_memory()
    call.numbers = numbers.to(device, non_blocking=pinned)


def _graph_hooks(hooks: Hooks) -> list[tuple[nn.Module, GraphHook]]:
    made, column = [], 1
    for module, hook in hooks:
        made.append((module, GraphHook(hook, column)))
        column += len(hook.parts)
    return made


class GraphHook(LayerHook):
    """A LayerHook that torch.compile can trace, and in few steps, since tracing takes long.

    column: of the call's numbers, that of its first part. factors: where it is plain, (down, up) of
    each part, as the host has them at this call.
    """

    def __init__(self, hook: LayerHook, column: int) -> None:
        vars(self).update(vars(hook))
        self.column = column
        self.factors: list[tuple[Tensor, Tensor]] = []

    def acts(self) -> bool:
        """It is on its layer only during calls with branches; their gates are no part of graphs."""
        return True

    def refresh(self) -> None:
        if self.is_plain:
            self.factors = [(part.held("down"), part.held("up")) for part in self.parts]

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Any:
        x, call = args[0] if args else kwargs["input"], self.call
        if torch.is_grad_enabled() and output.requires_grad:
            output = output.clone()
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
                act(module, x, y, part.at(x, numbers[0]), numbers[self.column + place])
            return
        for place, (down, up) in enumerate(self.factors):
            self._add_plain(module, x, y, place, down, up, numbers[self.column + place])
