"""What a computation costs: FLOPs and bytes alive, counted while torch runs it.

On torch's fake tensors (FakeTensorMode), which have a shape but no values, nothing is computed, so
that a model of any size can be counted on any machine. Bytes are those of tensors; what a kernel
needs for itself while it runs, and what an allocator wastes, are not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Cost:
    """forward, step: FLOPs (a multiplication and an addition are two) of the forward pass, and of
    it and the backward pass. kept: bytes alive between the two, for the backward pass. peak: most
    bytes alive at once. Tensors that existed before, such as the weights, are not counted.
    """

    forward: int
    step: int
    kept: int
    peak: int


class Counter(TorchDispatchMode):
    """Counts what runs inside: `flops`, and the bytes of storages made inside: `alive`, `peak`.

    torch's own FlopCounterMode has the same formulas, and keeps checkpointed tensors alive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.alive = self.peak = 0
        self._sizes: dict[int, int] = {}  # of the storages alive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is(t)}
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        for tensor in filter(_is, tree_leaves(out)):
            if tensor.untyped_storage()._cdata not in given:  # neither a view nor written in place
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)


def _is(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def price(forward: Callable[[], Tensor]) -> Cost:
    """The cost of a loss and of its backward pass."""
    with Counter() as counter:
        loss = forward()
        first, kept = counter.flops, counter.alive
        loss.backward()
    return Cost(first, counter.flops, kept, counter.peak)


def qr_flops(rows: int, rank: int) -> int:
    """Q of a (rows, rank) matrix and its gradient: Householder's reduction and forming Q, each
    2 r^2 (m - r/3), then two products Q^T dQ, Q (...) and one triangular solve, 5 m r^2.
    """
    return round(4 * rank**2 * (rows - rank / 3)) + 5 * rows * rank**2
