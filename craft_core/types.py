"""The values every room passes to the next: factors, branches, a bank, gates.

    y = base(x) + sum over branches j of gate[row, layer, j](moment) * up_j (down_j x) * scale_j

A *bank* holds the low-rank branches of the adapted layers; *gates* say how much of each branch
a conditional row gets at a moment of sampling. Values are frozen: a function returns a new one.
Shape letters: out, n (inputs), rank; views, layers, branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .time import Moment

Role = Literal["content", "style"]
ROLES: tuple[Role, ...] = ("content", "style")


@dataclass(frozen=True)
class Target:
    """Where in the model a name of a LoRA file points.

    module: module path inside the diffusion model, LDM names ("input_blocks.4.1.proj_in").
    rows: (start, length) of the layer's outputs, where a file's layer is a slice of a fused one
    (q of a fused qkv); None for the whole layer.
    """

    module: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Factors:
    """One low-rank update of one layer, dW = scale * up @ down, exactly as a file holds it.

    down: (rank, n) for a linear layer, (rank, n, *kernel) for a convolution.
    up: (out, rank), always a matrix (a 1x1 convolution's trailing axes are dropped on reading).
    scale: alpha / rank of the file; a strength is never folded in here.
    rows: (start, length) of the layer's outputs that `up` covers, None for all.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> Tensor:
        """dW in float32, (out, n) or (out, n, *kernel); only the covered rows."""
        flat = self.down.float().flatten(1)  # (rank, n * kernel)
        delta = self.scale * (self.up.float() @ flat)  # (out, n * kernel)
        return delta.reshape(self.up.shape[0], *self.down.shape[1:])


@dataclass(frozen=True)
class Branch:
    """A LoRA as the bank carries it: which role it plays and its factors by module path.

    A layer may hold several factors (the q, k and v slices of a fused qkv). strength is the
    user's dial; it multiplies the product up @ down once.
    """

    name: str
    role: Role
    layers: Mapping[str, tuple[Factors, ...]]
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
    """

    at: Callable[[Moment], Tensor]
    views: int = 1
    notes: tuple[str, ...] = ()


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
    """What the prompt and the layer sets say, by branch, for the methods that listen to them.

    gammas: one dial in [0, 1] per branch (0: its marker is absent). CRAFT-LoRA, Eq. 8.
    layer_sets: per branch, the module paths it may act on.
    statistics: of the pair, those that the method declares (Traits.statistics); None where it
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

    layers: factors by module path. text_encoder: the file's text-encoder tensors under their
    own keys, untouched, for the host. unmatched: names in the file that point nowhere in the model.
    """

    layers: Mapping[str, tuple[Factors, ...]]
    text_encoder: Mapping[str, Tensor] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def constant_gates(value: Tensor, notes: tuple[str, ...] = ()) -> Gates:
    """Gates that do not depend on time; value: (layers, branches)."""
    table = value.to(torch.float32)[None]  # (1, layers, branches)
    return Gates(at=lambda moment: table, notes=notes)
