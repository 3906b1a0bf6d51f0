"""ACFG through the host's own sampler and guider: only a flag on the MODEL differs."""

from __future__ import annotations

import math
from typing import Any

import comfy.samplers
import nodes as host_nodes
from torch import Tensor

from ..draw.activity import recorded_sheet
from ..engine.engine import is_routed, recorded, set_asymmetric


def objections(model: Any, cfg: float, asymmetric: bool) -> list[str]:
    """What a user should know before sampling."""
    found = []
    if not is_routed(model):
        found.append(
            "This MODEL carries no routed LoRAs, so sampling is plain. "
            "Connect the Content/Style LoRA Router's MODEL, with LoRAs chosen and <c> or <s> in "
            "its prompt."
        )
    if asymmetric and math.isclose(cfg, 1.0):
        found.append(
            "At cfg 1 most samplers run no unconditional pass, and then ACFG equals standard CFG. "
            "Raise cfg above 1 for asymmetric guidance (distilled models have none)."
        )
    return found


def acfg_guider(
    model: Any, positive: Any, negative: Any, cfg: float, asymmetric: bool
) -> comfy.samplers.CFGGuider:
    """The host's guider on a clone of MODEL that says which rows the LoRAs act on."""
    guider = comfy.samplers.CFGGuider(set_asymmetric(model, asymmetric))
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def acfg_sample(
    model: Any, asymmetric: bool, seed: int, steps: int, *arguments: Any
) -> tuple[dict[str, Any], Tensor | None]:
    """(LATENT, map of who acted where and when; None where nothing is routed).

    The host's KSampler on that clone; arguments as its `common_ksampler` takes them from cfg on.
    Live preview and progress are the host's own.
    """
    watched, recorder = recorded(set_asymmetric(model, asymmetric))
    (latent,) = host_nodes.common_ksampler(watched, seed, steps, *arguments)
    return latent, recorded_sheet(recorder, steps)
