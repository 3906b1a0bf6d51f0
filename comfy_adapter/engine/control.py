"""ControlNets that compute with the MODEL's own weights, where LoRA loaders act, too.

The host asks a ControlNet before it calls the model, outside the call in which branches act. Two
kinds meet what LoRA loaders patch into the MODEL's weights: one calls layers of the model itself
(Qwen-Image's Fun ControlNet), the others begin each run by copying weights into a network of their
own (Control-LoRA all that it has no other for, Stable Diffusion 3.5's those of one embedder). The
branches act there as in the model: by the same gates, on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.controlnet
import torch
from torch import Tensor, nn

from ...craft_core.lora.formats.difference import Difference
from ...craft_core.types import LayerUpdate
from .hooks import LayerHook
from .modules import weight_shape

InCall = Callable[[Tensor, dict], AbstractContextManager]
"""(inputs, transformer options) -> what a ControlNet's part of a model call runs in."""


@dataclass(frozen=True)
class Control:
    """A ControlNet object of a run. device: whose copy it is, where work is split among several."""

    made: Any
    device: torch.device | None


def controls_of(conds: Mapping[str, Iterable[dict[str, Any]] | None]) -> list[Control]:
    """Every ControlNet of a run's conditionings, also those that others have before them, once."""
    found: dict[int, Control] = {}
    waiting = [
        Control(entry["control"], None)
        for entries in conds.values()
        for entry in entries or ()
        if entry.get("control") is not None
    ]
    while waiting:
        one = waiting.pop()
        if id(one.made) in found:
            continue
        found[id(one.made)] = one
        before = getattr(one.made, "previous_controlnet", None)
        if before is not None:
            waiting.append(Control(before, one.device))
        copies = getattr(one.made, "multigpu_clones", {})
        waiting += [Control(copy, device) for device, copy in copies.items()]
    return list(found.values())


def calls_layers(control: Any, network: nn.Module) -> bool:
    """Whether a ControlNet calls layers of the model itself."""
    return any(one is network for one in getattr(control, "extra_args", {}).values())


@dataclass(frozen=True)
class CopiedLayer:
    """A ControlNet's layer with a weight, a bias or both that are the model's. copies: the names of
    these."""

    module: nn.Module
    copies: frozenset[str]

    def has(self, update: LayerUpdate) -> bool:
        """Whether an update of the model's layer changes what was copied."""
        return ("bias" if update.of_bias else "weight") in self.copies


def copied_layers(control: Any, layers: Iterable[str]) -> dict[str, CopiedLayer]:
    """A ControlNet's copies of these layers of the model."""
    network = getattr(control, "control_model", None)
    if network is None:
        return {}
    found = {}
    for path in layers:
        place = _place(control, network, path)
        if place is None:
            continue
        own = getattr(control, "control_weights", {})
        copies = frozenset(n for n in ("weight", "bias") if f"{place}.{n}" not in own)
        try:
            module = network.get_submodule(place)
        except AttributeError:
            continue
        if copies:
            found[path] = CopiedLayer(module, copies)
    return found


def _place(control: Any, network: nn.Module, path: str) -> str | None:
    """Which layer of the ControlNet is a copy of that layer of the model."""
    if isinstance(control, comfy.controlnet.ControlLora):
        return path
    if isinstance(control, comfy.controlnet.ControlNetSD35):
        embedder, inside, rest = path.partition(".")
        if network.double_y_emb and embedder == "y_embedder":
            return f"orig_y_embedder{inside}{rest}"
        if not network.double_y_emb and embedder == "x_embedder":
            return path
    return None


class ControlDifference:
    """What a Control-LoRA adds to its copy of a weight, as a part (in_turn.LayerPart)."""

    def __init__(self, module: Any, like: nn.Module) -> None:
        self._module, self._shape = module, weight_shape(like)
        self.update: LayerUpdate = Difference(torch.empty(self._shape, device="meta"))

    def at(self, like: Tensor, share: float) -> LayerUpdate:
        up, down = (one.to(like.device).flatten(1) for one in (self._module.up, self._module.down))
        return Difference((up @ down).reshape(self._shape).to(like.dtype))


def own_difference(module: Any, like: nn.Module) -> ControlDifference | None:
    """What a layer of a ControlNet adds to the weight that it has copied. like: the copied one."""
    if getattr(module, "up", None) is None or getattr(module, "down", None) is None:
        return None
    return ControlDifference(module, like)


class CopyHook:
    """A layer's hook on a ControlNet's copy of the layer. layer: the model's own, which has what
    updates ask of one."""

    def __init__(self, hook: LayerHook, layer: nn.Module) -> None:
        self._hook, self._layer = hook, layer

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Any:
        return self._hook(self._layer, args, kwargs, output)


@contextmanager
def asked_within(control: Any, in_call: InCall) -> Iterator[None]:
    """While the block runs, the host's questions to a ControlNet are answered within `in_call`."""
    ask, had_own = control.get_control, "get_control" in vars(control)

    def get_control(*args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["x_noisy"]
        options = args[4] if len(args) > 4 else kwargs["transformer_options"]
        with in_call(x, options):
            return ask(*args, **kwargs)

    control.get_control = get_control
    try:
        yield
    finally:
        if had_own:
            control.get_control = ask
        else:
            del control.get_control
