"""Work that the host saves, and that branches need done.

A branch acts where its layer is called, and otherwise at other times and in other rows of a batch.
While branches act, the host therefore
- calls a layer whose activation it would fold into a kernel of the layer's own (INT8; from 0.30),
- runs every model call anew, where it would replay how one call placed its tensors (its model
  compiler; from 0.34) or the call itself (CUDA graphs; from 0.33),
- keeps no keys and inputs of blocks of one model call for another in which branches act otherwise.
All is as it was when a run ends. Hosts that save none of this are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import comfy.cli_args
import comfy.ops
from torch import Tensor, nn

from .hooks import LayerHook

_REPLAYS = ("disable_comfy_compiler", "disable_cuda_graphs")  # the host's flags, read at each call
_POSES = "animate2_cache"  # where a node has Wan Animate 2 keep the inputs of its pose branch
_PREFIXES = "qwen_image21_cache"  # how Qwen-Image 2.1 keeps keys of text and reference images


@contextmanager
def layers_called() -> Iterator[None]:
    """Within this block the host calls every layer to which branches add something just then."""
    before = getattr(comfy.ops, "linear_input_act", None)
    if before is None:
        yield
        return
    comfy.ops.linear_input_act = _calling(before)
    try:
        yield
    finally:
        comfy.ops.linear_input_act = before


@cache
def _calling(fused: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One function for each of the host's, so that torch.compile knows it again."""

    def linear_input_act(linear: nn.Module, x: Tensor, input_act: str, *more: Any, **named: Any):
        if not _acts(linear):
            return fused(linear, x, input_act, *more, **named)
        assert not more and not named, "the host folds more into the layer than its activation"
        return linear(comfy.ops.INPUT_ACT_EAGER[input_act](x))

    return linear_input_act


def _acts(layer: nn.Module) -> bool:
    hooks = layer._forward_hooks.values()
    return any(isinstance(hook, LayerHook) and hook.acts() for hook in hooks)


@contextmanager
def without_replays() -> Iterator[None]:
    """Within this block the host replays nothing that it recorded of an earlier model call."""
    flags = vars(comfy.cli_args.args)
    before = {name: flags[name] for name in _REPLAYS if name in flags}
    flags.update(dict.fromkeys(before, True))
    try:
        yield
    finally:
        flags.update(before)


@contextmanager
def without_kept_keys(diffusion_model: nn.Module) -> Iterator[None]:
    """HiDream-O1 keeps keys of the text from run to run, made with other strengths: none before
    the block and after it."""
    forget_keys(diffusion_model)
    try:
        yield
    finally:
        forget_keys(diffusion_model)


def forget_keys(diffusion_model: nn.Module) -> None:
    """Have HiDream-O1 compute its next call whole; no other model keeps keys by itself."""
    getattr(diffusion_model, "clear_kv_cache", lambda: None)()


def keep_nothing(transformer_options: dict[str, Any]) -> None:
    """Have models keep nothing from one call of a run to the next, where options decide that.

    transformer_options: those of the run, which are changed.
    """
    transformer_options.pop(_POSES, None)
    transformer_options[_PREFIXES] = {"device": "off"}
