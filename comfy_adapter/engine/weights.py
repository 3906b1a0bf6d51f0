"""A routed MODEL where nodes ask for its weights: to save them, merge them or take them apart.

The branches are in no weight, so the host's own answers would leave them out. Where the gates are
one constant for all rows, the branches join the answers as weight patches; what the host's
LoraLoader would answer for the same files is the same. Where gates change with time or between
rows no weights say what the MODEL does, and the question is refused. A node that multiplies the
weights, as a merge does with its first model, multiplies the branches' gates with them: exact
under any gates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

import comfy.model_management
import comfy.weight_adapter
import torch
from torch import Tensor, nn

from ...craft_core.errors import CraftError
from ...craft_core.types import LayerUpdate
from .bank import BranchPart
from .modules import PREFIX

KEY = "craft_lora_bank"  # what the names of a bank's parts on a MODEL begin with
MERGED = "craft_lora_merged"  # a layer whose branches a node has put into the weights for good
_OF_CLONE = ("disable_dynamic", "model_override", "force_deepcopy")
_MADE_BY = "craft_lora_made_by"
# By network, the first patcher of the one loaded for its clones without dynamic VRAM, which all of
# these hold. An edit drops them before it makes others, so that it is kept besides.
_twins: WeakKeyDictionary[nn.Module, ref] = WeakKeyDictionary()
_first: WeakKeyDictionary[nn.Module, ref] = WeakKeyDictionary()  # likewise, by the network loaded
_kept: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


class Carrier(Protocol):
    """What of a bank on a MODEL matters here; kept among the MODEL's attachments."""

    layers: tuple[str, ...]
    factors_key: str
    patched: Mapping[str, int]  # by layer, how many patches its weight had before the branches came

    def constant_gates(self, options: Mapping[str, Any]) -> Tensor | None:
        """(layers, branches); None where they change. options: the transformer options."""

    def constant_share(self) -> float:
        """What BranchPart.at needs beside constant gates."""

    def parts(self, patcher: Any, layers: Sequence[str]) -> Mapping[str, Sequence[BranchPart]]:
        """What the branches add to each of the layers."""

    def multiplied(self, path: str, factor: float, patched: int) -> Carrier:
        """The same with the gates of a layer times the factor. patched: how many patches the
        layer's weight has then, which come before the branches."""

    def put_on(self, patcher: Any) -> None:
        """On a patcher, in place of the one with the same key."""

    def take_off(self, patcher: Any) -> None: ...


_Gated = tuple[Callable[[Tensor], LayerUpdate], float]


class BranchPatch(comfy.weight_adapter.WeightAdapterBase):
    """W + gate * dW for each of the branches' updates of a weight, one after another, in place.

    weights: (read, gate) of each. read: a float32 tensor on a device -> the update there, so that
    its tensors stay where the host keeps them. The host rebuilds adapters as
    type(self)(loaded_keys, weights), so they hold all of this one's state.
    """

    name = "craft_branches"

    def __init__(self, loaded_keys: set[str], weights: tuple[_Gated, ...]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights  # type: ignore[assignment]

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """The host's call; `weight` is its own copy."""
        like = torch.empty(0, dtype=torch.float32, device=weight.device)
        for read, gate in self.weights:
            update = read(like)
            rows = weight if update.rows is None else weight.narrow(0, *update.rows)
            delta = update.on(weight, strength * gate).delta()
            rows.add_(delta.reshape(rows.shape), alpha=strength * gate)
        return weight


class RoutedPatcher:
    """Mixed into the class of a routed MODEL: the host's questions about weights, answered with
    the branches in them."""

    _bare = False

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        """Some loaders' patchers, and the host's on request, give a clone a class of its own.

        For a clone without dynamic VRAM the host loads the whole MODEL anew; here all such clones
        share the network that was loaded first, as all others do.
        """
        given = dict(zip(_OF_CLONE, args, strict=False)) | kwargs
        if not given.get("disable_dynamic") or not self.is_dynamic():
            return answering(super().clone(*args, **kwargs))
        if given.get("model_override") is None and not given.get("force_deepcopy"):
            twin = _twin(self)
            if twin is not None:
                given["model_override"] = twin.get_clone_model_override()
        made = answering(super().clone(**given))
        if made.model in _first:  # who the host turns to when this one is gone
            made.parent = _first[made.model]()
        return made

    def partially_load(self, device_to: Any, *args: Any, **kwargs: Any) -> Any:
        """A node may give one of the clones that share a network another device."""
        there = self.model.device == device_to or not self.model.model_loaded_weight_memory
        if self.model in _first and not there:
            self.unpatch_model(self.offload_device)
        return super().partially_load(device_to, *args, **kwargs)

    def add_patches(
        self, patches: Mapping, strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list:
        """A patch that keeps a share of the weight keeps that share of the branches."""
        if strength_model != 1.0:
            for key in patches:
                _multiply(self, key, strength_model)
        return super().add_patches(patches, strength_patch, strength_model)

    def get_key_patches(self, filter_prefix: str | None = None) -> dict:
        """What a merge takes of its second model."""
        if self._bare or not carriers(self):
            return super().get_key_patches(filter_prefix)
        return in_weights(self).get_key_patches(filter_prefix)

    def patch_hooks(self, hooks: Any) -> None:
        """The host's hooks ask for patches too, but read the unpatched weights alone."""
        self._bare = True
        try:
            super().patch_hooks(hooks)
        finally:
            self._bare = False

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict:
        if not carriers(self):
            return super().state_dict_for_saving(*args, **kwargs)
        return _loaded(self).state_dict_for_saving(*args, **kwargs)

    def model_state_dict(self, filter_prefix: str | None = None) -> dict:
        """Asked with a prefix by who reads the loaded weights (Extract and Save Lora); without one
        by who reads names."""
        if filter_prefix is None or not carriers(self):
            return super().model_state_dict(filter_prefix)
        return _loaded(self).model_state_dict(filter_prefix)

    def patch_weight_to_device(self, *args: Any, **kwargs: Any) -> Any:
        """Asked to return a weight by who reads one, and not by who loads the MODEL."""
        asked = in_weights(self) if kwargs.get("return_weight") and carriers(self) else super()
        return asked.patch_weight_to_device(*args, **kwargs)


def answering(patcher: Any) -> Any:
    """The patcher, its class extended by RoutedPatcher."""
    if not isinstance(patcher, RoutedPatcher):
        patcher.__class__ = _extended(type(patcher))
    return patcher


def own_patches(patcher: Any, prefix: str) -> dict:
    """get_key_patches without the branches of a routed MODEL."""
    if not isinstance(patcher, RoutedPatcher):
        return patcher.get_key_patches(prefix)
    return super(RoutedPatcher, patcher).get_key_patches(prefix)


def _twin(patcher: Any) -> Any:
    """A patcher of a MODEL's network, loaded once more and without dynamic VRAM; None where its
    loader does not tell how."""
    made_by, known = patcher.cached_patcher_init, _twins.get(patcher.model)
    if made_by is None:
        return None
    twin = known and known()
    if not twin or not _is_of(twin, patcher):
        load, given, *place = made_by
        twin = load(*given, disable_dynamic=True)
        twin = twin[place[0]] if place else twin
        if twin.is_dynamic():  # a loader that knows nothing of it
            return twin
        twin.load_device, twin.offload_device = patcher.load_device, patcher.offload_device
        twin.set_attachments(_MADE_BY, made_by)
        _twins[patcher.model] = _first[twin.model] = ref(twin)
    _kept[patcher.model] = twin
    return twin


def _is_of(twin: Any, patcher: Any) -> bool:
    same_device = twin.load_device == patcher.load_device
    return same_device and twin.attachments[_MADE_BY] is patcher.cached_patcher_init


def let_twin_go(patcher: Any) -> None:
    """Called when a MODEL is sampled. Under dynamic VRAM, what was loaded without it for a node
    that may be there no more lives from now on as long as a MODEL has it."""
    if patcher.is_dynamic():
        _kept.pop(patcher.model, None)


@cache
def _extended(own: type) -> type:
    return type(f"Routed{own.__name__}", (RoutedPatcher, own), {})


def carriers(patcher: Any) -> list[Carrier]:
    return [value for name, value in patcher.attachments.items() if name.startswith(KEY)]


def in_weights(patcher: Any) -> Any:
    """A clone whose branches are weight patches, each in its place. CraftError where their gates
    change with time or between rows."""
    clone = patcher.clone()
    _put_into_weights(clone)
    return clone


def _put_into_weights(patcher: Any) -> None:
    options = patcher.model_options["transformer_options"]
    for carrier in reversed(carriers(patcher)):  # a later one's places stay as they are
        gates = carrier.constant_gates(options)
        if gates is None:
            raise _refusal()
        parts = carrier.parts(patcher, carrier.layers)
        carrier.take_off(patcher)
        made = _patches(parts, gates.tolist(), carrier.constant_share())
        patcher.add_patches(made)
        for key in made:
            own = patcher.patches.get(key)
            path, _, kind = key.removeprefix(PREFIX).rpartition(".")
            if own and kind == "weight":
                own.insert(carrier.patched.get(path, 0), own.pop())


def _loaded(patcher: Any) -> Any:
    """in_weights, loaded: whoever asked had the routed MODEL loaded, whose weights lack them."""
    clone = in_weights(patcher)
    comfy.model_management.load_models_gpu([clone])
    return clone


def _patches(
    layers: Mapping[str, Sequence[BranchPart]], gates: list[list[float]], share: float
) -> dict[Any, BranchPatch]:
    """What the branches add, by the host's key of a weight or a bias."""
    by_key: dict[str, list[_Gated]] = {}
    for (path, parts), own_gates in zip(layers.items(), gates, strict=True):
        for part in parts:
            if own_gates[part.branch]:
                name = "bias" if part.update.of_bias else "weight"
                gated = by_key.setdefault(f"{PREFIX}{path}.{name}", [])
                gated.append((partial(part.at, share=share), own_gates[part.branch]))
    return {key: BranchPatch({key}, tuple(gated)) for key, gated in by_key.items()}


def _multiply(patcher: Any, key: Any, factor: float) -> None:
    """The gates of the layer whose weight a patch multiplies, times the factor too. The branches
    join the weights before where that is not the same: where it multiplies some rows alone, where
    an update depends on the weight that it meets, and where one changes the bias."""
    name, offset = (key, None) if isinstance(key, str) else (key[0], key[1])
    path, _, kind = name.removeprefix(PREFIX).rpartition(".")
    concerned = [c for c in carriers(patcher) if path in c.layers]
    own = [part.update for c in concerned for part in c.parts(patcher, [path])[path]]
    apart = any(update.on_weight or update.of_bias for update in own)
    if not concerned or kind not in ("weight", "bias") or (kind == "bias" and not apart):
        return
    if offset is not None or apart:
        _put_into_weights(patcher)
        patcher.set_attachments(MERGED, path)
        return
    for carrier in concerned:
        patched = len(patcher.patches.get(f"{PREFIX}{path}.weight", ())) + 1
        carrier.multiplied(path, factor, patched).put_on(patcher)


def _refusal() -> CraftError:
    return CraftError(
        "This node reads the weights of a MODEL whose routed LoRAs change from step to step, or "
        "act on some rows of the batch and not on others",
        "No one set of weights says what such a MODEL does",
        "Write the LoRAs as they act at one step with Fuse LoRAs to File and load that file with "
        "a LoRA loader instead of the Router, or take a method and schedule that do not change",
    )
