"""What a backward pass needs is as it was when it was saved, whether kept or computed again.

The host's blocks write into tensors that an operation before them has saved for its gradient, as in
`norm(img)` and then `img += ...`. torch knows by a tensor's version that it was written to, and
raises; within torch.utils.checkpoint it does not look, and the gradient is wrong without a word.
Here every saved tensor is watched, in both cases. Where some were written to, the run is made again
with copies of those, which are remembered by their number, so that this happens in the first step.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ....craft_core.errors import CraftError

_T = TypeVar("_T")
_MODELS = "comfy.ldm."  # where the host has them


class Gradients:
    """Runs a network so that gradients through it are exact, and computes `blocks` of it again in
    the backward pass: of those only the inputs are kept. `undo` puts the blocks back."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self._device, self._copies = device, set[int]()
        self._saved: _Saved | None = None  # of the network's run that is under way
        self._before = [(block, block.__dict__.get("forward")) for block in blocks]
        for block in blocks:
            block.forward = self._recomputed(block.forward)

    def undo(self) -> None:
        for block, own in self._before:
            del block.forward
            if own is not None:
                block.forward = own

    def run(self, network: Callable[[], _T]) -> _T:
        """What `network` returns. It is called again where it has written to a tensor that its
        gradient needs and that was not known for it."""
        if not torch.is_grad_enabled():
            return network()
        while True:
            saved = self._saved = _Saved(self._copies)
            try:
                with saved_tensors_hooks(saved.keep, _Kept.get):
                    found = network()
            finally:
                self._saved = None
            written = saved.written()
            if not written:
                return found
            self._copies |= written
            del found

    def _recomputed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        copies = set[int]()

        def run(*args: Any, **kwargs: Any) -> Any:
            saved = self._saved
            if saved is None or not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            block = _Block(forward, saved.held((args, kwargs)), copies, self._device)
            self._saved = None  # blocks within this one are computed again with it
            try:
                with saved_tensors_hooks(block.number, block.get):
                    return forward(*args, **kwargs)
            finally:
                self._saved = saved

        return run


class _Kept:
    """A tensor that is needed later. is_copy: whether nothing else can write to it."""

    def __init__(self, tensor: Tensor, is_copy: bool) -> None:
        self.is_copy = is_copy or tensor.is_inference()  # such a one has no version
        self.has_gradient = tensor.requires_grad
        self._tensor = tensor.detach().clone() if self.is_copy else tensor.detach()
        self._version = self._tensor._version

    def get(self) -> Tensor:
        assert not self.is_written, "written to after the run that saved it"
        return self._tensor

    def fresh(self) -> Tensor:
        """The tensor for a second run, which may write to it where the first did."""
        tensor = self.get().detach().requires_grad_(self.has_gradient)
        return tensor.clone() if self.is_copy else tensor

    @property
    def is_written(self) -> bool:
        return self._tensor._version != self._version


class _Saved:
    """What one run saves. copies: numbers, in the order of saving, of what is written to later."""

    def __init__(self, copies: set[int]) -> None:
        self._copies, self._count = copies, 0
        self._alive: dict[int, weakref.ref[_Kept]] = {}

    def keep(self, tensor: Tensor) -> _Kept:
        kept = _Kept(tensor, self._count in self._copies)
        self._alive[self._count] = weakref.ref(kept)
        self._count += 1
        return kept

    def held(self, value: Any) -> Any:
        """A value with what is kept in place of its tensors."""
        return _mapped(value, Tensor, self.keep, {})

    def written(self) -> set[int]:
        """Numbers of what was written to and is still needed."""
        alive = {number: found() for number, found in self._alive.items()}
        return {number for number, kept in alive.items() if kept is not None and kept.is_written}


class _Block:
    """One call of a block: what it was given, and what it saves, computed when that is asked for.

    given: (args, kwargs) with what is kept in place of their tensors. copies: as of _Saved, of what
    the block itself saves.
    """

    def __init__(
        self, forward: Callable[..., Any], given: Any, copies: set[int], device: torch.device
    ) -> None:
        self._forward, self._given, self._copies = forward, given, copies
        self._surroundings = _Surroundings(device)
        self._forms: list[tuple[torch.Size, torch.dtype]] = []
        self._ready: dict[int, Tensor] = {}

    def number(self, tensor: Tensor) -> int:
        self._forms.append((tensor.shape, tensor.dtype))
        return len(self._forms) - 1

    def get(self, number: int) -> Tensor:
        if number not in self._ready:
            self._ready = self._computed()
        return self._ready.pop(number)

    def _computed(self) -> dict[int, Tensor]:
        while True:
            saved, written = self._again()
            if not written:
                break
            self._copies |= written
            del saved
        if [(one.shape, one.dtype) for one in saved] != self._forms:
            raise CraftError(
                "A block of this model saves other tensors when it is computed again",
                "With gradient_checkpointing each block is computed twice, both times alike",
                "Turn gradient_checkpointing off",
            )
        return dict(enumerate(saved))

    def _again(self) -> tuple[list[Tensor], set[int]]:
        """(all that the block saves, numbers of what it wrote to after it was saved)."""
        saved, kept = _Saved(self._copies), list[_Kept]()

        def keep(tensor: Tensor) -> None:
            kept.append(saved.keep(tensor))
            if len(kept) == len(self._forms):
                raise _Enough

        with self._surroundings.restored(), saved_tensors_hooks(keep, _never), suppress(_Enough):
            args, kwargs = _mapped(self._given, _Kept, _Kept.fresh, {})
            self._forward(*args, **kwargs)
        written = saved.written()
        return [] if written else [one.get() for one in kept], written


class _Enough(BaseException):
    """All that was saved is there: the rest of a second run would change nothing."""


class _Surroundings:
    """Autocast and the random numbers as they are when this is made, for a second run.

    torch has both for the CPU, and for devices that it knows by a module of their name.
    """

    def __init__(self, device: torch.device) -> None:
        kind, module = device.type, getattr(torch, device.type, None)
        self._device, self._module = device, module
        self._on_cpu = torch.get_rng_state()
        has_own = kind != "cpu" and hasattr(module, "get_rng_state")
        self._on_device = module.get_rng_state(device) if has_own else None
        is_cast = module is not None and torch.is_autocast_enabled(kind)
        self._cast = torch.get_autocast_dtype(kind) if is_cast else None

    @contextmanager
    def restored(self) -> Iterator[None]:
        kind, devices = self._device.type, []
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            if self._on_device is not None:
                devices = [self._device]
            stack.enter_context(torch.random.fork_rng(devices, device_type=kind))
            torch.set_rng_state(self._on_cpu)
            if self._on_device is not None:
                self._module.set_rng_state(self._on_device, self._device)
            if self._cast is not None:
                stack.enter_context(torch.autocast(kind, self._cast))
            yield


def _mapped(value: Any, kind: type, change: Callable[[Any], Any], done: dict[int, Any]) -> Any:
    """A value with what is of that kind changed, in new lists, tuples, dicts and objects of the
    host's models; one thing in two places stays one. done: what was changed, by its id."""

    def mapped(one: Any) -> Any:
        return _mapped(one, kind, change, done)

    if id(value) in done:
        return done[id(value)]
    if isinstance(value, kind):
        done[id(value)] = change(value)
        return done[id(value)]
    if type(value) is dict:
        return {name: mapped(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(mapped, value))
    if not type(value).__module__.startswith(_MODELS) or isinstance(value, nn.Module):
        return value
    if isinstance(value, tuple):
        return type(value)(*map(mapped, value))
    # Such as SeedVR2's Cache, which a block fills.
    own = done[id(value)] = copy.copy(value)
    if own is not value:
        for name in (*getattr(value, "__dict__", ()), *getattr(value, "__slots__", ())):
            object.__setattr__(own, name, mapped(getattr(value, name)))
    return own


def _never(_: None) -> Tensor:
    raise AssertionError("nothing goes back through a second run")
