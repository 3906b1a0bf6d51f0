"""The modules of LoRA files that a living MODEL uses: made once, and moved to the device once.

What a module holds depends on the file, the dtype and the device alone (engine.bank), so a MODEL
made after an edit takes it from the one made before. The references are weak: a module lives as
long as a MODEL carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from ...craft_core.types import Bank, Branch, LoraFile
from ..engine.bank import branch_patcher, run_dtype

_FILE = "craft_lora_file"  # a patcher keeps its file alive, so that no other takes the file's id
_patchers: WeakValueDictionary[tuple, Any] = WeakValueDictionary()


def shared_patchers(bank: Bank, files: Sequence[LoraFile], model: Any) -> list[Any]:
    """By branch, the patcher of its whole file, of which the bank may use few layers; of a branch
    that acts nowhere None, unless some MODEL has one. files: of the bank's branches. A branch whose
    updates a method has changed has a patcher of its own."""
    return [
        branch_patcher(branch.layers, model)
        if _is_changed(branch, file)
        else _patcher(file, model, make=bool(branch.layers))
        for branch, file in zip(bank.branches, files, strict=True)
    ]


def _is_changed(branch: Branch, file: LoraFile) -> bool:
    return any(own is not file.layers[path] for path, own in branch.layers.items())


def _patcher(file: LoraFile, model: Any, make: bool) -> Any:
    key = (id(file), run_dtype(model), str(model.load_device), str(model.offload_device))
    found = _patchers.get(key)
    if found is None and make:
        found = _patchers[key] = branch_patcher(file.layers, model)
        found.set_attachments(_FILE, file)
    return found
