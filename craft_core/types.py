"""The values every room passes to the next: updates, branches, a bank, gates.

    y = base(x) + sum over branches j of gate[row, layer, j](moment) * scale_j * update_j(x)

where update_j(x) is up_j (down_j x) for low-rank factors, the usual kind. A *bank* holds the
branches of the adapted layers; *gates* say how much of each branch a conditional row gets at a
moment of sampling. Values are frozen: a function returns a new one.
Shape letters: out, n (inputs), rank; views, layers, branches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from .time import Moment

Role = Literal["content", "style"]
ROLES: tuple[Role, ...] = ("content", "style")

LayerShapes = Mapping[str, tuple[int, ...]]
"""Module path -> weight shape of the linear and convolution layers, in forward depth order; where
normalisations are asked for too, theirs is (n,)."""


@dataclass(frozen=True)
class LayerTarget:
    """Where in the model a name of a LoRA file points.

    module: module path inside the diffusion model, LDM names ("input_blocks.4.1.proj_in").
    rows: (start, length) of the layer's outputs, where a file's layer is a slice of a fused one
    (q of a fused qkv); None for the whole layer. columns: the same of the inputs. order: where the
    file has the outputs in another order, its outputs as the layer has them, in runs of (start,
    length); ((4, 4), (0, 4)) swaps the halves of eight. of: where the file has more outputs than
    the order takes, as a fused qkv has of which this layer is q, how many it has.
    """

    module: str
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    order: tuple[tuple[int, int], ...] | None = None
    of: int | None = None


@dataclass(frozen=True)
class LayerPass:
    """One pass of inputs through a layer, as an update sees it.

    x: the inputs, (B, ..., n) or (B, n, *spatial). base: what the layer made of them before any
    update. product: (inputs, weight) -> the layer's own operation with another weight, (m, n) or
    (m, n, *kernel), and no bias: the same strides and padding; of a normalisation, whose weight
    is (n,), the normalised inputs times that weight. axis: of the outputs in base, and of the
    inputs in x. For what changes the weight it finds: bias, the layer's; gate, at which the update
    acts; again, inputs -> what the layer makes of others, without its bias.
    """

    x: Tensor
    base: Tensor
    product: Callable[[Tensor, Tensor], Tensor]
    axis: int = -1
    bias: Tensor | None = None
    gate: float = 1.0
    again: Callable[[Tensor], Tensor] | None = None

    @property
    def unbiased(self) -> Tensor:
        """What the layer makes of the inputs by its weight alone."""
        return self.base if self.bias is None else self.base - self.along(self.bias)

    def along(self, vector: Tensor) -> Tensor:
        """A vector over the outputs, or over the inputs, as it broadcasts against them."""
        axes_after = -self.axis - 1 if self.axis < 0 else self.base.ndim - 1 - self.axis
        return vector.reshape(-1, *(1,) * axes_after)

    def narrowed(self, rows: tuple[int, int] | None) -> LayerPass:
        """As an update sees it that covers those outputs."""
        if rows is None:
            return self
        axis, again = self.axis, self.again
        return replace(
            self,
            base=self.base.narrow(axis, *rows),
            bias=None if self.bias is None else self.bias.narrow(0, *rows),
            again=again and (lambda inputs: again(inputs).narrow(axis, *rows)),
        )


_Update = TypeVar("_Update", bound="LayerUpdate")


class LayerUpdate(ABC):
    """What an adapter does to one layer: scale times what its tensors make of the inputs.

    Each is a frozen dataclass whose tensor fields are all of its numbers. scale: as the file has
    it; a strength is never folded in here. They are about as many as the file has for it: what is
    larger an update makes while it acts on one layer, and lets go. rows: (start, length) of the
    layer's outputs that it covers, None for all. rank: that of dW, at most. inputs: (n, *kernel),
    of a normalisation and of a bias (). is_low_rank: whether `factors` are a smaller form of dW
    than dW itself. of_bias: whether dW is that of the layer's bias. on_weight: whether dW depends
    on the weight that it is added to; `on` then makes of it an update that does not. precise: the
    tensors to compute with in float32 whatever the model's type.
    """

    of_bias: ClassVar[bool] = False
    on_weight: ClassVar[bool] = False
    precise: ClassVar[tuple[str, ...]] = ()

    scale: float
    rows: tuple[int, int] | None

    @property
    @abstractmethod
    def rank(self) -> int: ...

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many outputs it covers."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def is_low_rank(self) -> bool: ...

    @abstractmethod
    def delta(self) -> Tensor:
        """dW in float32, (out, n) or (out, n, *kernel), or (out,); only the covered rows."""

    @abstractmethod
    def added(self, layer: LayerPass) -> Tensor:
        """What it adds to the covered outputs at a scale of 1, or what broadcasts to that."""

    def act(self, layer: LayerPass, amount: float | Tensor) -> None:
        """Add amount times that to `layer.base`, in place. amount: a number, or a tensor () of
        one, which a compiled graph needs for one that changes."""
        added, alpha = times(self.added(layer), amount)
        layer.base.add_(added, alpha=alpha)

    @abstractmethod
    def factors(self) -> Factors:
        """dW exactly as low-rank factors, however large their rank is."""

    @abstractmethod
    def entries(self) -> Factors:
        """Factors of a matrix with the entries of dW in any order, of as low a rank as there is:
        for what only sums over them."""

    def on(self, weight: Tensor, gate: float = 1.0) -> LayerUpdate:
        """The same on a layer of that weight, (out, n, *kernel), at a gate: with a dW of its own.

        What acts is gate * dW; few kinds have a dW that depends on the gate, too.
        """
        return self

    def settled(self, share: float | Tensor) -> LayerUpdate:
        """As it acts where a method takes out that share of what it may take out (Gates.share);
        a number, or a tensor () of one."""
        return self

    def whole(self, outputs: int) -> Tensor:
        """dW in float32 with all the outputs of its layer, zeros where it covers none."""
        delta = self.delta()
        made = delta.new_zeros(outputs, *delta.shape[1:])
        start, count = self.rows or (0, outputs)
        made[start : start + count] = delta
        return made

    def with_outputs_times(self, factor: Tensor) -> LayerUpdate | None:
        """The same with each output times a number, (out,); None where that is no smaller change of
        its tensors than of what it adds."""
        return None

    def taken(self, weight: Callable[[], Tensor]) -> Mapping[str, Tensor]:
        """What `added` needs of the layer's weight, as fields of the update: taken once.

        weight: gives it, (out, n, *kernel) in float32.
        """
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def with_tensors(self: _Update, tensors: Mapping[str, Tensor]) -> _Update:
        return replace(self, **tensors)

    def mapped(self: _Update, change: Callable[[Tensor], Tensor]) -> _Update:
        """A copy with each tensor changed, for example moved to a device."""
        return self.with_tensors({name: change(value) for name, value in self.tensors().items()})


@dataclass(frozen=True)
class Factors(LayerUpdate):
    """One low-rank update of one layer, dW = scale * up @ down, exactly as a file holds it.

    down: (rank, n) for a linear layer, (rank, n, *kernel) for a convolution, (rank,) for a weight
    or a bias of shape (out,).
    up: (out, rank), always a matrix (a 1x1 convolution's trailing axes are dropped on reading).
    scale: alpha / rank of the file.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def outputs(self) -> int:
        return self.up.shape[0]

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(self.down.shape[1:])

    @property
    def is_low_rank(self) -> bool:
        return True

    @property
    def flat_down(self) -> Tensor:
        """(rank, n * kernel)"""
        return self.down.reshape(self.rank, -1)

    def delta(self) -> Tensor:
        """dW in float32, (out, n) or (out, n, *kernel); only the covered rows."""
        flat = self.flat_down.float()  # (rank, n * kernel)
        delta = self.scale * (self.up.float() @ flat)  # (out, n * kernel)
        return delta.reshape(self.up.shape[0], *self.down.shape[1:])

    def added(self, layer: LayerPass) -> Tensor:
        hidden = layer.product(layer.x, self.down)  # (B, ..., rank) or (B, rank, *spatial)
        up = self.up.to(hidden.dtype)
        if self.down.ndim > 2:
            return (up @ hidden.flatten(2)).unflatten(2, hidden.shape[2:])
        return hidden @ up.T

    def act(self, layer: LayerPass, amount: float | Tensor) -> None:
        hidden = layer.product(layer.x, self.down)
        add_product(layer.base, hidden, self.up.to(hidden.dtype), amount, self.down.ndim > 2)

    def with_outputs_times(self, factor: Tensor) -> Factors:
        return replace(self, up=factor[:, None] * self.up)

    def factors(self) -> Factors:
        return self

    def entries(self) -> Factors:
        return self


def times(tensor: Tensor, amount: float | Tensor) -> tuple[Tensor, float]:
    """(what to add, alpha): amount times a tensor as torch's accumulating operations take it. They
    multiply by a number while they add, and by no tensor."""
    return (tensor * amount, 1.0) if isinstance(amount, Tensor) else (tensor, amount)


def add_product(
    y: Tensor, hidden: Tensor, up: Tensor, amount: float | Tensor, is_convolution: bool
) -> None:
    """y += amount * up hidden, in place and without a copy of y where it lies in one piece.

    hidden: (B, ..., rank), of a convolution (B, rank, *spatial). up: (out, rank).
    """
    hidden, alpha = times(hidden, amount)
    if is_convolution:
        up = up.expand(y.shape[0], *up.shape)  # (B, out, rank)
        if y.is_contiguous():
            y.view(*y.shape[:2], -1).baddbmm_(up, hidden.flatten(2), alpha=alpha)
        else:
            y.add_((up @ hidden.flatten(2)).view_as(y), alpha=alpha)
    elif y.is_contiguous():
        y.view(-1, y.shape[-1]).addmm_(hidden.reshape(-1, hidden.shape[-1]), up.T, alpha=alpha)
    else:
        y.add_(hidden @ up.T, alpha=alpha)


@dataclass(frozen=True)
class Branch:
    """A LoRA as the bank carries it: which role it plays and its updates by module path.

    A layer may hold several updates (the q, k and v slices of a fused qkv). strength is the
    user's dial; it multiplies an update once.
    """

    name: str
    role: Role
    layers: Mapping[str, tuple[LayerUpdate, ...]]
    strength: float = 1.0


@dataclass(frozen=True)
class Bank:
    """All branches, and the adapted layers in forward depth order."""

    branches: tuple[Branch, ...]
    layers: tuple[str, ...]

    @classmethod
    def of(cls, branches: Sequence[Branch], depth_order: Sequence[str]) -> Bank:
        """A bank over the layers at least one branch adapts, in `depth_order`'s order.

        depth_order: every module path of the model in forward order; it must contain all
        layers of the branches.
        """
        adapted = {path for branch in branches for path in branch.layers}
        layers = tuple(path for path in depth_order if path in adapted)
        assert len(layers) == len(adapted), "a branch adapts a layer the model does not have"
        return cls(tuple(branches), layers)


@dataclass(frozen=True)
class Gates:
    """How much of every branch a conditional row gets at a moment.

    at: moment -> float32 tensor (views, layers, branches), axes ordered as in the bank.
    views: conditional copies to evaluate and average (1; LoRA Composite: one per branch).
    notes: lines for the user's report (e.g. switch points).
    constant: (layers, branches), what `at` gives at every moment, where there is one view and time
    changes nothing; else None.
    bank: the bank, where the method changes updates in it; else None. share: how much of what it
    can take out of these they lose at a moment, in [0, 1] (LayerUpdate.settled).
    """

    at: Callable[[Moment], Tensor]
    views: int = 1
    notes: tuple[str, ...] = ()
    constant: Tensor | None = None
    bank: Bank | None = None
    share: Callable[[Moment], float] = lambda moment: 0.0


@dataclass(frozen=True)
class Statistics:
    """Numbers about the updates of content and style, by a statistic's name, measured when asked
    for (lora/statistics).

    shared: name -> module path -> (content, style), in each layer that both adapt, in depth order.
    alone: name -> its sums over the layers that content alone adapts, and style alone.
    """

    shared: Callable[[str], Mapping[str, tuple[float, float]]]
    alone: Callable[[str], tuple[float, float]] = lambda statistic: (0.0, 0.0)


@dataclass(frozen=True)
class Routing:
    """What the prompt and the layer sets say, by branch, for the methods that read them.

    gammas: one dial in [0, 1] per branch (0: its marker is absent). CRAFT-LoRA, Eq. 8.
    layer_sets: per branch, the module paths it may act on.
    statistics: of the pair, those that the method declares (FusionTraits.statistics); None where it
    declares none.
    """

    gammas: tuple[float, ...]
    layer_sets: tuple[frozenset[str], ...]
    statistics: Statistics | None = None

    def __post_init__(self) -> None:
        assert all(0.0 <= gamma <= 1.0 for gamma in self.gammas), "a gamma ranges from 0 to 1"


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file read against a model's names.

    layers: updates by module path. text_encoder: the file's text-encoder tensors under their
    own keys, untouched, for the host. unmatched: names in the file that point nowhere in the model.
    kinds: what kind of adapter a layer has, by module path. zeros: how many differences the file
    holds that are all zeros, and are left out. faults: what of the file cannot act, and why, where
    that was allowed. notes: what a user should know of how the file is read, one sentence each.
    """

    layers: Mapping[str, tuple[LayerUpdate, ...]]
    text_encoder: Mapping[str, Tensor] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    zeros: int = 0
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def constant_gates(value: Tensor, notes: tuple[str, ...] = ()) -> Gates:
    """Gates that do not depend on time; value: (layers, branches)."""
    table = value.to(torch.float32)[None]  # (1, layers, branches)
    return Gates(at=lambda moment: table, notes=notes, constant=table[0])
