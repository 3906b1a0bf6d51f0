"""The modules of LoRA files that a living MODEL uses: made once, and moved to the device once.

What a module holds depends on the file, the dtype and the device alone (engine.bank), so a MODEL
made after an edit takes it from the one made before. Where a method has changed updates, it depends
on these. The references are weak: a module lives as long as a MODEL carries it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from ...craft_core.types import Bank, Branch, LayerUpdate, LoraFile
from ..engine.bank import branch_patcher, run_dtype
from ..living import in_use

# A patcher keeps alive what it was made of, a file or changed updates, so that no other takes its
# id; and so the method finds again what it changed.
_MADE_OF = "craft_lora_made_of"
_patchers: WeakValueDictionary[tuple, Any] = in_use()


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
