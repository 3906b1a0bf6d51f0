"""Row-gated branches: torch forward hooks on exactly the adapted layers.

    y[rows] += gate * scale * (x[rows] down^T) up^T      or what another kind of update adds

A hook adds to what its layer returns; it never replaces `forward` and never touches a weight, so
packs that wrap forwards stack with it in any order, and quantised or streamed bases stay exact.
Hooks live on the model only while a sampling run lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ...craft_core.errors import CraftError
from ...craft_core.families import mixes_rows
from ...craft_core.lora.formats.difference import acts_by_parts
from ...craft_core.types import Factors, LayerPass, LayerUpdate, add_product
from .bank import BranchPart
from .in_turn import Acting, InTurn, LayerPart
from .modules import act_in_groups, in_groups, is_norm, output_axis, project


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
    share: of what a method can take out of updates, how much they lose now.
    doubled: twice the call's rows, where models embed reference images at timestep 0: layers
    that see one vector for each row then get twice the rows: those of the call, and below them
    as many for the reference images.
    numbers: what a compiled graph reads instead of gates and share, on the model's device
    (compiled.py).
    """

    chunks: int = 1
    runs: list[GatedChunks] = field(default_factory=list)
    share: float = 0.0
    doubled: int | None = None
    numbers: Tensor | None = None

    def set(self, chunks: int, runs: list[GatedChunks]) -> None:
        self.chunks, self.runs = chunks, runs

    def clear(self) -> None:
        self.set(1, [])
        self.share, self.doubled, self.numbers = 0.0, None, None


Hooks = Sequence[tuple[nn.Module, "LayerHook"]]


def layer_hooks(
    diffusion_model: nn.Module,
    layers: Mapping[str, Sequence[BranchPart]],
    call: ModelCall,
    around: Callable[[str], Around] | None = None,
) -> Hooks:
    """A hook for each adapted layer. layers: what the branches add to each, in the order of the
    gates. around: what else acts on a layer, asked where updates depend on the weight they meet."""
    network, made = type(diffusion_model).__name__, []
    for index, (path, parts) in enumerate(layers.items()):
        module = diffusion_model.get_submodule(path)
        hook = LayerHook(index, path, parts, call, module, network)
        made.append((module, hook if around is None else among(hook, around)))
    return made


def among(hook: LayerHook, around: Callable[[str], Around]) -> LayerHook:
    """The hook, with what else acts on its layer, where its updates depend on the weight."""
    others = around(hook.path) if hook.in_turn is not None else None
    return HookBetween(hook, others) if others else hook


@contextmanager
def attached(hooks: Hooks) -> Iterator[None]:
    """Hooks on their layers while the block runs; they are removed however it ends."""
    handles = []
    try:
        for module, hook in hooks:
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class LayerHook:
    """The branches of one layer.

    is_plain: whether its updates are all low-rank ones of a linear layer or of a convolution
    without groups, which take a shorter way: on a GPU a step's launches and Python count.
    """

    def __init__(
        self, index: int, path: str, parts: Sequence[BranchPart], call: ModelCall, module: Any,
        network: str = "",
    ) -> None:  # fmt: skip
        self.mixes_rows = mixes_rows(path, network)
        self.index, self.path, self.parts, self.call = index, path, parts, call
        ordered = any(part.update.on_weight for part in parts)
        self.in_turn = InTurn() if ordered else None
        self.is_convolution, self.axis = hasattr(module, "kernel_size"), output_axis(module)
        self.is_plain = (
            not is_norm(module)
            and not in_groups(module)
            and all(type(part.update) is Factors for part in parts)
        )
        self.covered = [part.update.rows for part in parts]

    def acts(self) -> bool:
        """Whether the model call now under way asks for anything in this layer."""
        return any(any(run.gates[self.index]) for run in self.call.runs)

    def acting(self, gates: Sequence[float]) -> list[Acting]:
        """Its updates of which something acts at these gates."""
        share = self.call.share
        return [Acting(one, gates[one.branch], share) for one in self.parts if gates[one.branch]]

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
        if self.mixes_rows:
            raise CraftError(
                f"{self.path} sees its rows in another order than the conditionings",
                "There asymmetric guidance cannot know which rows are whose",
                "Turn asymmetric off, or keep the LoRAs off this layer with layer patterns",
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
        if self.in_turn is not None:
            self.in_turn.add(module, x[rows], y[rows], self.acting(gates))
            return y
        x, base = x[rows], y[rows]
        for place, part in enumerate(self.parts):
            amount = gates[part.branch] * part.update.scale
            if amount and self.is_plain:
                self._add_plain(module, x, base, place, part.held("down"), part.held("up"), amount)
            elif amount:
                act(module, x, base, part.at(x, self.call.share), amount)
        return y

    def _add_plain(
        self, module: Any, x: Tensor, y: Tensor, place: int, down: Tensor, up: Tensor,
        amount: float | Tensor,
    ) -> None:  # fmt: skip
        """What `act` does for the low-rank update in that place, in fewer steps."""
        down, rows = down.to(x), self.covered[place]
        hidden = module._conv_forward(x, down, None) if self.is_convolution else x @ down.T
        base = y if rows is None else y.narrow(self.axis, *rows)
        add_product(base, hidden, up.to(hidden), amount, self.is_convolution)


@dataclass(frozen=True)
class Around:
    """What else acts on a layer. earlier: in its order what acts before: hooks of the MODEL's
    earlier banks, and patches of the weight between them. after: what comes after this one's own
    bank, and is in what the layer makes."""

    earlier: Sequence[LayerHook | Acting] = ()
    after: Sequence[LayerPart] = ()

    def __bool__(self) -> bool:
        return bool(self.earlier or self.after)


class HookBetween(LayerHook):
    """A hook whose updates depend on the weight that they meet, among others that change it."""

    def __init__(self, hook: LayerHook, around: Around) -> None:
        vars(self).update(vars(hook))
        self.earlier, self.in_turn = around.earlier, InTurn(around.after)

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Any:
        x = args[0] if args else kwargs["input"]
        if torch.is_grad_enabled() and output.requires_grad:
            output = output.clone()
        for run in self.call.runs:
            own = self.acting(run.gates[self.index])
            for piece in self._pieces(run) if own else ():
                before = self._before(piece)
                for rows in self._rows(piece, output):
                    self.in_turn.add(module, x[rows], output[rows], own, before)
        return output

    def _hooks(self) -> list[LayerHook]:
        return [one for one in self.earlier if isinstance(one, LayerHook)]

    def _pieces(self, run: GatedChunks) -> list[GatedChunks]:
        """A run in pieces, in each of which the gates of the earlier banks are alike too."""
        others = [one for hook in self._hooks() for one in hook.call.runs]
        cuts = {at for one in others for at in (one.start, one.stop) if run.start < at < run.stop}
        ends = [run.start, *sorted(cuts), run.stop]
        return [replace(run, start=a, stop=b) for a, b in pairwise(ends)]

    def _before(self, piece: GatedChunks) -> list[Acting]:
        """What acts in the rows of a piece before its own updates."""
        found: list[Acting] = []
        for one in self.earlier:
            if isinstance(one, Acting):
                found.append(one)
                continue
            for run in one.call.runs:
                if run.start <= piece.start < run.stop:
                    found += one.acting(run.gates[one.index])
        return found


def act(module: Any, x: Tensor, y: Tensor, update: LayerUpdate, amount: float | Tensor) -> None:
    """Add one update to y, in place. The amount is a plain number, or a tensor () of one on y's
    device: nothing waits for a device."""
    if in_groups(module) and acts_by_parts(update):
        return act_in_groups(module, x, y, update, amount / update.scale)
    layer = LayerPass(x, y, partial(project, module), output_axis(module))
    update.act(layer.narrowed(update.rows), amount)
