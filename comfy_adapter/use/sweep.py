"""The same prompt and pair under several fusion methods: routed once each, files read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import comfy.samplers
import comfy.utils
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.fusion import FUSION
from ...craft_core.fusion.lines import Line, parse_lines
from ...craft_core.guidance import GUIDANCE
from ...craft_core.guidance.reach import overdriven_places
from ...craft_core.routing.markers import parse
from ...craft_core.routing.plan import lacks_blocks
from ...craft_core.routing.presets import OF_MODEL
from ...craft_core.time import Moment, Timeline, progress
from ..draw.activity import Activity, activity_sheet
from ..engine.engine import ASYMMETRIC, noise_levels, set_asymmetric, set_guidance
from ..engine.modules import model_layers
from ..model.lora_files import apply_stack
from .burning import guided_setting
from .router import Routed, RouterRequest, route

MOST_SCALES = 16
_SCHEDULER = "normal"


@dataclass(frozen=True)
class SweepGuidance:
    """What the lines of a sweep are sampled under. asymmetric: where a line names no guidance.
    scales: the cfg of the columns; empty where samplers have one of their own."""

    asymmetric: bool
    scales: Sequence[float] = ()


@dataclass(frozen=True)
class Sweep:
    """routed: a MODEL for each line. sheet: the map of what is planned, as nothing has run yet.
    warnings: what the user should see without opening the report."""

    lines: tuple[Line, ...]
    routed: tuple[Routed, ...]
    sheet: Tensor
    report: str
    warnings: tuple[str, ...]


def method_lines(text: str) -> tuple[Line, ...]:
    return parse_lines(text, ("auto", *OF_MODEL), GUIDANCE)


def under_line(model: Any, line: Line, asymmetric: bool) -> tuple[Any, bool]:
    """(a clone under the line's guidance, what a sampling node's `asymmetric` should be). A rule
    that this switch does not choose stays with the MODEL."""
    switch = ASYMMETRIC.get(line.guidance, asymmetric)
    if line.guidance and line.guidance not in ASYMMETRIC:
        return set_guidance(model, line.guidance, line.weights, stays=True), switch
    return set_asymmetric(model, switch), switch


def guidance_scales(text: str) -> tuple[float, ...]:
    """The cfg of each column from a text of numbers and commas; CraftError where it is no such."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        scales = tuple(map(float, parts))
    except ValueError:
        scales = ()
    if not 0 < len(scales) <= MOST_SCALES or not all(0.0 <= one <= 100.0 for one in scales):
        raise CraftError(
            f"cfgs is {text[:200]!r}",
            f"It is one to {MOST_SCALES} numbers from 0 to 100, with commas between them",
            "Write for example: 1, 2, 4",
        )
    if len(set(scales)) < len(scales):
        raise CraftError(
            f"cfgs is {text[:200]!r}", "Each is a column of its own", "Write each number once"
        )
    return scales


def sweep(
    model: Any,
    clip: Any,
    methods: str,
    request: RouterRequest,
    steps: int,
    stack: Sequence = (),
    guidance: SweepGuidance | None = None,
) -> Sweep:
    """Route `request` by every method listed; the MODELs share the LoRAs' factors.

    methods: lines of craft_core.fusion.lines; the request's own method is not used. A method
    whose own blocks the model does not have is left out, and the warnings say so. steps: of the
    sampling that the sheet is planned for. guidance: for the warning of what it takes too far.
    """
    lines, left_out = _fitting(method_lines(methods), model)
    if not request.branches:
        raise CraftError(
            "No LoRA is chosen",
            "Methods differ in how they combine a content and a style LoRA",
            "Choose both, or connect extra branches",
        )
    model, clip, stacked = apply_stack(model, clip, stack)
    bar = comfy.utils.ProgressBar(len(lines))
    routed = []
    for line in lines:
        own = replace(
            request,
            method={"method": line.method.key, **line.knobs},
            layer_sets=line.layer_sets or request.layer_sets,
        )
        routed.append(route(model, clip, own, (), whole=True))
        bar.update(1)
    run, moments = _planned(model, steps, request.whole_sigmas)
    activities = [Activity.of(one.bank, one.gates, moments) for one in routed]
    sheet = activity_sheet([line.label for line in lines], activities, heading=f"planned: {run}")
    warnings = list(dict.fromkeys(text for one in routed for text in one.warnings))
    if guidance is not None:
        warnings += _too_far(lines, request, guidance)
    heads = map(_head, lines)
    reports = (f"[{head}]\n{one.report}" for head, one in zip(heads, routed, strict=True))
    report = "\n\n".join(filter(None, ["\n".join([*left_out, *warnings, *stacked]), *reports]))
    return Sweep(lines, tuple(routed), sheet, report, (*left_out, *warnings))


def _head(line: Line) -> str:
    return ", ".join(line.label.splitlines())


def _too_far(lines: Sequence[Line], request: RouterRequest, guidance: SweepGuidance) -> list[str]:
    """What the user should know of lines whose LoRAs guidance multiplies too far."""
    marked, settings = parse(request.prompt), []
    for line, cfg in product(lines, guidance.scales or (0.0,)):  # by 0 none goes too far
        place = _head(line) + (f", cfg {cfg:g}" if len(guidance.scales) > 1 else "")
        settings.append(
            guided_setting(place, request.branches, marked, line, cfg, guidance.asymmetric)
        )
    return overdriven_places(settings)


def _planned(model: Any, steps: int, whole: Sequence[float] | None) -> tuple[str, list[Moment]]:
    """(the run the sheet is for, its moments): the whole one where its sigmas are given, else as
    many steps of the host's `normal` scheduler, from pure noise."""
    levels = noise_levels(model)
    if whole is not None:
        at = Timeline.of(whole, levels).at
        return f"the {len(whole) - 1} steps of whole_sigmas", [at(one) for one in whole[:-1]]
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, _SCHEDULER, steps).tolist()
    shares = (i / max(1, steps - 1) for i in range(steps))
    moments = [
        Moment(share, steps, progress(sigma, levels))
        for share, sigma in zip(shares, sigmas[:-1], strict=True)
    ]
    return f"{steps} steps, {_SCHEDULER}, denoise 1", moments


def _fitting(lines: Sequence[Line], model: Any) -> tuple[tuple[Line, ...], list[str]]:
    """(the lines this model can run, why the others are left out)."""
    kept, left_out = [], []
    for line in lines:
        lacking = lacks_blocks(line.method, model_layers(model))
        if lacking:
            left_out.append(f"{line.method.key} is left out: {lacking}.")
        else:
            kept.append(line)
    if not kept:
        raise CraftError(
            "None of the methods can run on this model: " + " ".join(left_out),
            f"Known are {', '.join(FUSION.keys())}",
            "List others",
        )
    return tuple(kept), left_out
