"""One setting's picture, as the Router, ACFG KSampler and VAE Decode make it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import comfy.sample
from torch import Tensor

from ...craft_core.fusion.lines import Line
from ...craft_core.guidance import GUIDANCE
from ...craft_core.guidance.reach import reaches
from .burning import rule_of
from .router import Routed, RouterRequest, route
from .sweep import under_line

_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")  # of a LATENT; older have none


@dataclass(frozen=True)
class Sampling:
    """What ACFG KSampler and VAE Decode take. latent: LATENT, an empty one."""

    negative: Any
    latent: dict[str, Any]
    vae: Any
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str

    def picture(self, model: Any, positive: Any, seed: int) -> Tensor:
        """(B, h, w, 3): what KSampler and VAE Decode make, without their progress on the node."""
        return self.decoded(self.sampled(model, positive, seed))

    def sampled(self, model: Any, positive: Any, seed: int) -> Tensor:
        """The latent that KSampler makes."""
        ratios = {name: self.latent[name] for name in _RATIOS if name in self.latent}
        empty = comfy.sample.fix_empty_latent_channels(model, self.latent["samples"], **ratios)
        noise = comfy.sample.prepare_noise(empty, seed, self.latent.get("batch_index"))
        return comfy.sample.sample(
            model, noise, self.steps, self.cfg, self.sampler_name, self.scheduler, positive,
            self.negative, empty, noise_mask=self.latent.get("noise_mask"), disable_pbar=True,
            seed=seed,
        )  # fmt: skip

    def decoded(self, latent: Tensor) -> Tensor:
        """(B, h, w, 3): what VAE Decode makes of it."""
        pictures = self.vae.decode(latent)
        return pictures.reshape(-1, *pictures.shape[-3:])[..., :3]


class Guidance(NamedTuple):
    """What a picture shows of its MODEL: all that a picture of the same evaluations shows which
    guidance takes less far, and maybe more.

    evaluations: of which rule, and whether the negative prompt has one, which the host leaves out
    at cfg 1. distance: how far guidance goes beyond the prediction under the prompt, >= 0.
    """

    evaluations: str
    distance: float


def guidance_of(line: Line, cfg: float) -> Guidance:
    """That of a line's pictures, under ACFG where it names no rule."""
    rule = rule_of(line)
    weights = [by for _, by in reaches(rule, cfg, GUIDANCE[rule].knobs(line.weights)).values()]
    distance = max(abs(by - 1.0) for by in (cfg, *weights))
    unguided = math.isclose(cfg, 1.0)
    return Guidance(f"{rule}-unguided" if unguided else rule, float(f"{distance:.6g}"))


def routed_by(model: Any, clip: Any, request: RouterRequest, line: Line) -> Routed:
    """The MODEL routed by a line's method, under its guidance, ACFG where it names none. The
    request's own method is not used."""
    own = replace(
        request,
        method={"method": line.method.key, **line.knobs},
        layer_sets=line.layer_sets or request.layer_sets,
    )
    found = route(model, clip, own)
    return replace(found, model=under_line(found.model, line, True)[0])
