"""A branch's updates as a module the host loads, counts and offloads like any other model.

What it holds depends on the branch's file, the dtype and the device alone. Gates, strengths and
layer sets are data of the run, so MODELs that differ in nothing else share the module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...craft_core.types import LayerUpdate


class BranchModule(nn.Module):
    """The tensors of a branch's updates in the dtype in which they run; where the file has that
    dtype, they are the file's own, not copies.

    shapes: per layer the updates without their numbers (on the meta device), each with the prefix
    of its parameters. same: name of a parameter that there is not -> of the one that it is: what
    a file holds once for several layers, as for a fused one of which the model has the parts, is
    held once.
    """

    def __init__(self, layers: Mapping[str, Sequence[LayerUpdate]], dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.same: dict[str, str] = {}
        known: dict[tuple, tuple[str, Tensor]] = {}  # held, so that no other takes a tensor's place
        self.shapes: dict[str, tuple[tuple[str, LayerUpdate], ...]] = {
            path: tuple(
                self._add(f"layer_{index}_{part}", one, known) for part, one in enumerate(updates)
            )
            for index, (path, updates) in enumerate(layers.items())
        }

    def _add(
        self, name: str, update: LayerUpdate, known: dict[tuple, tuple[str, Tensor]]
    ) -> tuple[str, LayerUpdate]:
        for field, tensor in update.tensors().items():
            dtype = torch.float32 if field in update.precise else self.dtype
            own = f"{name}_{field}"
            first, _ = known.setdefault(_place(tensor, dtype), (own, tensor))
            if first != own:
                self.same[own] = first
                continue
            value = tensor.to(dtype).contiguous()
            self.register_parameter(own, nn.Parameter(value, requires_grad=False))
        return name, update.mapped(lambda tensor: torch.empty_like(tensor, device="meta"))

    def own_copy(self) -> BranchModule:
        """The same with tensors of its own, and without what a host has hung on this one: memory
        of a card, which a plain copy would share and free twice."""
        made = BranchModule({}, self.dtype)
        made.shapes, made.same = self.shapes, self.same
        for name, tensor in self.named_parameters():
            own = nn.Parameter(tensor.detach().clone(), requires_grad=False)
            made.register_parameter(name, own)
        return made

    def get_dtype(self) -> torch.dtype:
        return self.dtype


def _place(tensor: Tensor, dtype: torch.dtype) -> tuple:
    """The same for the same numbers in memory, as they run in that dtype."""
    address = tensor.data_ptr() or id(tensor)  # those without numbers have none
    return tensor.device, address, tensor.dtype, tensor.shape, tensor.stride(), dtype


@dataclass(frozen=True, eq=False)
class BranchPart:
    """One update of one branch in one layer. update: without its numbers, which are the module's
    parameters `name_field` for each of its fields."""

    branch: int
    module: BranchModule
    name: str
    update: LayerUpdate
    fields: tuple[str, ...]

    def tensor(self, field: str, like: Tensor) -> Tensor:
        """One of its tensors on `like`'s device and dtype; read anew at each call, because the
        host may have moved them."""
        dtype = torch.float32 if field in self.update.precise else like.dtype
        return self.held(field).to(like.device, dtype)

    def held(self, field: str) -> Tensor:
        """One of its tensors as the module has it now."""
        name = f"{self.name}_{field}"
        return getattr(self.module, self.module.same.get(name, name))

    def at(self, like: Tensor, share: float | Tensor) -> LayerUpdate:
        """The update on `like`'s device and dtype; read anew at each call, likewise. share: of what
        its method can take out of it, how much it loses."""
        here = {field: self.tensor(field, like) for field in self.fields}
        return self.update.with_tensors(here).settled(share)


def layer_parts(
    path: str, where: Sequence[Mapping | frozenset], modules: Sequence[BranchModule | None]
) -> list[BranchPart]:
    """What the branches add to a layer, in their order. where: by branch, the layers it acts on;
    modules: by branch, None for one that acts nowhere."""
    return [
        BranchPart(j, module, name, update, tuple(update.tensors()))
        for j, (acts, module) in enumerate(zip(where, modules, strict=True))
        if module is not None and path in acts
        for name, update in module.shapes[path]
    ]


def run_dtype(model: Any) -> torch.dtype:
    """The inference dtype of a MODEL; float32 where that is no type to compute in, as loaders of
    packed weights leave it."""
    dtype = model.model.get_dtype_inference()
    computes = dtype.is_floating_point and dtype.itemsize > 1
    return dtype if computes else torch.float32


def branch_patcher(layers: Mapping[str, Sequence[LayerUpdate]], like: Any) -> Any:
    """A ModelPatcher around a branch's updates, in the dtype in which they run on `like`."""
    with torch.inference_mode(False):
        module = BranchModule(layers, run_dtype(like))
    return _patcher(module, like.load_device, like.offload_device)


class StayingPatcher:
    """Mixed into the host's patcher of dynamic VRAM: what is on the device stays there.

    Layers of the host's own are staged there. Any other parameter the host takes off the device and
    copies anew at each load, that is before each run. While they are there it has those that it
    took them from as its backup; when it needs the memory, it puts these back.
    """

    def load(self, device_to: Any = None, *args: Any, **kwargs: Any) -> None:
        there = self.model.device == device_to
        if not there or len(self.backup) != sum(1 for _ in self.model.parameters()):
            with torch.inference_mode(False):  # runs of any mode may follow
                super().load(device_to, *args, **kwargs)


@cache
def _staying(kind: type) -> type:
    return type(f"Staying{kind.__name__}", (StayingPatcher, kind), {})


def _patcher(
    module: BranchModule, load_device: Any, offload_device: Any, disable_dynamic: bool = False
) -> Any:
    kind = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        kind = comfy.model_patcher.ModelPatcher
    elif kind is comfy.model_patcher.ModelPatcherDynamic:
        kind = _staying(kind)
    patcher = kind(module, load_device, offload_device)
    # How the host makes a copy for a further device.
    patcher.cached_patcher_init = (_copied, (module, load_device, offload_device))
    return patcher


def _copied(
    module: BranchModule, load_device: Any, offload_device: Any, disable_dynamic: bool = False
) -> Any:
    with torch.inference_mode(False):
        return _patcher(module.own_copy(), load_device, offload_device, disable_dynamic)
