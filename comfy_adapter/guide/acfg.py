"""ACFG through the host's own sampler and guider: only a flag on the MODEL differs."""

from __future__ import annotations

import math
from typing import Any

import comfy.samplers
import nodes as host_nodes
from torch import Tensor

from ...craft_core.messages import NO_GUIDANCE, NOT_ROUTED
from ..draw.activity import recorded_sheet
from ..engine.engine import is_routed, recorded, set_asymmetric


def objections(model: Any, cfg: float, asymmetric: bool) -> list[str]:
    """What a user should know before sampling."""
    found = [] if is_routed(model) else [NOT_ROUTED]
    return [*found, NO_GUIDANCE] if asymmetric and math.isclose(cfg, 1.0) else found


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
