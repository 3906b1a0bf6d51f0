"""The same prompt and pair under several fusion methods: routed once each, files read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
from torch import Tensor

from ..craft_core.errors import CraftError
from ..craft_core.fusion.lines import Line, parse_lines
from ..craft_core.routing.presets import PRESETS
from .activity import Activity, activity_sheet
from .lora_files import read
from .router import Request, Routed, route


@dataclass(frozen=True)
class Sweep:
    """One routed MODEL a line, in order; a sheet of who acts where and when; a report."""

    lines: tuple[Line, ...]
    routed: tuple[Routed, ...]
    sheet: Tensor
    report: str


def method_lines(text: str) -> tuple[Line, ...]:
    return parse_lines(text, ("auto", *(key for key in PRESETS if key != "auto")))


def sweep(
    model: Any, clip: Any, methods: str, request: Request, steps: int, stack: Sequence = ()
) -> Sweep:
    """Route `request` by every method listed.

    methods: lines of craft_core.fusion.lines; the request's own method is not used. steps: of the
    sampling, for the sheet.
    """
    lines = method_lines(methods)
    if not request.branches:
        raise CraftError(
            "No LoRA is chosen",
            "Methods differ in how they combine a content and a style LoRA",
            "Choose both, or connect extra branches",
        )
    files = [read(b.name, model) for b in request.branches]
    bar = comfy.utils.ProgressBar(len(lines))
    routed = []
    for line in lines:
        own = replace(
            request,
            method={"method": line.method.key, **line.knobs},
            layer_sets=line.layer_sets or request.layer_sets,
        )
        routed.append(route(model, clip, own, stack, files))
        bar.update(1)
    activities = [Activity.of(one.bank, one.gates, steps) for one in routed]
    sheet = activity_sheet([line.label for line in lines], activities)
    reports = (f"[{line.label}]\n{one.report}" for line, one in zip(lines, routed, strict=True))
    return Sweep(lines, tuple(routed), sheet, "\n\n".join(reports))
