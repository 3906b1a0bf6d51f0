"""What a living MODEL uses of LoRA files beside what was read: modules, made once and moved to the
device once, and patches of weights, made once and put into the weights once.

What a module holds depends on the file, the dtype and the device alone (engine.bank), so a MODEL
made after an edit takes it from the one made before. Where a method has changed updates, it depends
on these. The references are weak: a module lives as long as a MODEL carries it, and so do patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary, ref

from torch import nn

from ...craft_core.types import Bank, Branch, LayerUpdate, LoraFile
from ..engine.bank import branch_patcher, run_dtype
from ..living import in_use

# A patcher keeps alive what it was made of, a file or changed updates, so that no other takes its
# id; and so the method finds again what it changed.
_MADE_OF = "craft_lora_made_of"
_patchers: WeakValueDictionary[tuple, Any] = in_use()


@dataclass(frozen=True, eq=False)
class AddedPatches:
    """Patches that a network's weights got beside those that they had, and the host's id of all.

    On another clone of the same patcher they are the same to the host, which then patches nothing
    anew. They are as small as the files that they come from, and keep no network alive.
    """

    network: ref[nn.Module]
    added: Mapping[str, Sequence[tuple]]
    uuid: UUID

    @staticmethod
    def of(patcher: Any, before: Any) -> AddedPatches:
        """before: the patcher without them."""
        added = {
            key: own[len(before.patches.get(key, ())) :] for key, own in patcher.patches.items()
        }
        return AddedPatches(
            ref(patcher.model),
            {key: own for key, own in added.items() if own},
            patcher.patches_uuid,
        )

    def fit(self, patcher: Any) -> bool:
        """Whether this is the network that they were put on. Its id may have become another's."""
        return self.network() is patcher.model

    def put_on(self, clone: Any) -> None:
        """clone: of a patcher with the id that `before` had."""
        for key, own in self.added.items():
            clone.patches[key] = [*clone.patches.get(key, ()), *own]
        clone.patches_uuid = self.uuid


def patched_as(patcher: Any) -> tuple[int, UUID]:
    """The same for patchers of one network with the same patches."""
    return id(patcher.model), patcher.patches_uuid


def shared_patchers(bank: Bank, files: Sequence[LoraFile], model: Any) -> list[Any]:
    """By branch, the patcher of its whole file, of which the bank may use few layers; of a branch
    that acts nowhere None, unless some MODEL has one. files: of the bank's branches. A branch whose
    updates a method has changed has a patcher of these, shared where the method gives them again.
    """
    return [
        _patcher(branch.layers, branch.layers, model)
        if _is_changed(branch, file)
        else _patcher(file, file.layers, model, make=bool(branch.layers))
        for branch, file in zip(bank.branches, files, strict=True)
    ]


def _is_changed(branch: Branch, file: LoraFile) -> bool:
    return any(own is not file.layers[path] for path, own in branch.layers.items())


def _patcher(
    made_of: Any, layers: Mapping[str, Sequence[LayerUpdate]], model: Any, make: bool = True
) -> Any:
    key = (id(made_of), run_dtype(model), str(model.load_device), str(model.offload_device))
    found = _patchers.get(key)
    if found is None and make:
        found = _patchers[key] = branch_patcher(layers, model)
        found.set_attachments(_MADE_OF, made_of)
    return found
