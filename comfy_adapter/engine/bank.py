"""The bank's updates as a module the host loads, counts and offloads like any other model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...craft_core.types import Bank, Factors, LayerUpdate


@dataclass(frozen=True)
class BranchColumns:
    """One branch's factors inside a stacked layer: columns [start, start + rank) belong to it."""

    branch: int
    start: int
    rank: int
    scale: float


@dataclass(frozen=True)
class Group:
    """Factors of one layer that write the same rows, stacked along the rank.

    name: parameter prefix in the module. rows: as in Factors.
    """

    name: str
    slots: tuple[BranchColumns, ...]
    rows: tuple[int, int] | None


@dataclass(frozen=True)
class Single:
    """One update that adds by its own algebra, as no other can be stacked with it. In a layer with
    an update that depends on the weight it meets every update is one, in the branches' order.

    name: parameter prefix in the module. update: its numbers are the module's, so here it has
    none (its tensors are on the meta device).
    """

    name: str
    branch: int
    update: LayerUpdate


class BankModule(nn.Module):
    """Stacked factors of all branches: per group `down` (ranks, n, *kernel), `up` (out, ranks);
    and every other update with its own tensors."""

    def __init__(self, bank: Bank, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.groups: list[list[Group]] = [
            self._stack(index, bank, path, dtype) for index, path in enumerate(bank.layers)
        ]
        self.singles: list[list[Single]] = [
            list(self._single(index, bank, path, dtype)) for index, path in enumerate(bank.layers)
        ]

    def _stack(self, index: int, bank: Bank, path: str, dtype: torch.dtype) -> list[Group]:
        by_rows: dict[tuple[int, int] | None, list[tuple[int, Factors]]] = {}
        for j, branch in enumerate(bank.branches):
            for update in () if _in_turn(bank, path) else branch.layers.get(path, ()):
                if isinstance(update, Factors):
                    by_rows.setdefault(update.rows, []).append((j, update))
        groups = []
        for part, (rows, members) in enumerate(by_rows.items()):
            name = f"layer_{index}_{part}"
            self._add(f"{name}_down", torch.cat([f.down.to(dtype) for _, f in members], 0))
            self._add(f"{name}_up", torch.cat([f.up.to(dtype) for _, f in members], 1))
            groups.append(Group(name, _slots(members), rows))
        return groups

    def _single(self, index: int, bank: Bank, path: str, dtype: torch.dtype) -> Iterator[Single]:
        for j, branch in enumerate(bank.branches):
            for part, update in enumerate(branch.layers.get(path, ())):
                if isinstance(update, Factors) and not _in_turn(bank, path):
                    continue
                name = f"layer_{index}_{j}_{part}"
                for field, tensor in update.tensors().items():
                    kept = torch.float32 if field in update.precise else dtype
                    self._add(f"{name}_{field}", tensor.to(kept))
                yield Single(name, j, update.mapped(lambda tensor: tensor.to("meta")))

    def _add(self, name: str, value: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(value.contiguous(), requires_grad=False))

    def factors(self, group: Group, like: Tensor) -> tuple[Tensor, Tensor]:
        """(down, up) of a group on `like`'s device and dtype; read anew at each call, because
        the host may have moved them."""
        down = getattr(self, f"{group.name}_down")
        up = getattr(self, f"{group.name}_up")
        return down.to(like.device, like.dtype), up.to(like.device, like.dtype)

    def update(self, single: Single, like: Tensor) -> LayerUpdate:
        """A single update on `like`'s device and dtype; read anew at each call, likewise."""
        precise = single.update.precise
        return single.update.with_tensors({
            field: getattr(self, f"{single.name}_{field}").to(
                like.device, torch.float32 if field in precise else like.dtype
            )
            for field in single.update.tensors()
        })  # fmt: skip

    def get_dtype(self) -> torch.dtype:
        return self.dtype


def _in_turn(bank: Bank, path: str) -> bool:
    """Whether an update of the layer depends on the weight it meets, so that order matters."""
    return any(one.on_weight for branch in bank.branches for one in branch.layers.get(path, ()))


def _slots(members: list[tuple[int, Factors]]) -> tuple[BranchColumns, ...]:
    slots, start = [], 0
    for branch, factors in members:
        slots.append(BranchColumns(branch, start, factors.rank, factors.scale))
        start += factors.rank
    return tuple(slots)


def bank_patcher(bank: Bank, like: Any) -> Any:
    """A ModelPatcher around the bank's updates, in the inference dtype of the MODEL `like`; in
    float32 where that is no type to compute in, as loaders of packed weights leave it."""
    dtype = like.model.get_dtype_inference()
    computes = dtype.is_floating_point and dtype.itemsize > 1
    module = BankModule(bank, dtype if computes else torch.float32)
    return _patcher(module, like.load_device, like.offload_device)


def _patcher(module: BankModule, load_device: Any, offload_device: Any) -> Any:
    patcher = comfy.model_patcher.CoreModelPatcher(module, load_device, offload_device)
    # How the host makes a copy for a further device.
    patcher.cached_patcher_init = (_copied, (module, load_device, offload_device))
    return patcher


def _copied(
    module: BankModule, load_device: Any, offload_device: Any, disable_dynamic: bool = False
) -> Any:
    return _patcher(copy.deepcopy(module), load_device, offload_device)
