"""What the Router does: files and a marked prompt in, a routed MODEL, conditioning and report out.

CRAFT-LoRA (2026), arXiv:2602.18936, Sec. 3.4.1 and Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from comfy.patcher_extension import CallbacksMP

from ...craft_core.errors import CraftError
from ...craft_core.fusion import FUSION
from ...craft_core.fusion.compose import compose
from ...craft_core.messages import NO_MARKER
from ...craft_core.projection import backbone_lines
from ...craft_core.routing.markers import MarkedPrompt, parse
from ...craft_core.routing.plan import Plan, PlanRequest, plan
from ...craft_core.routing.presets import PRESETS
from ...craft_core.schedule.schedule import Schedule
from ...craft_core.types import Bank, Gates, LoraFile, Role
from ..engine.compiled import is_compiled, uncompiled_line, why_uncompiled
from ..engine.engine import attach, is_routed
from ..engine.modules import model_names
from ..living import let_go
from ..model.basis import projected_from
from ..model.encoded_text import encoded
from ..model.expert_encoder import Applied, apply_encoder
from ..model.given import given, kept
from ..model.in_use import shared_patchers
from ..model.lora_files import (
    NONE,
    BranchFile,
    apply_stack,
    patched_text,
    read_branch_file,
    require,
)
from ..page.widgets import CUSTOM, PATTERNS, chosen


@dataclass(frozen=True)
class RouterRequest:
    """What the user asked of a Router. layer_sets: a preset's key or lines of patterns.
    method: the menu's value, {"method": key, knob: value}. expert_encoder: a file's name, "" for
    none. whole_sigmas: those that a sampler's run is a part of, where several make one picture."""

    prompt: str
    branches: tuple[BranchFile, ...]
    layer_sets: str
    method: dict[str, Any]
    schedule: Schedule | None = None
    allow_unmatched: bool = False
    expert_encoder: str = ""
    whole_sigmas: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Routed:
    """second: the second MODEL with its branches; None where none was given."""

    model: Any
    conditioning: Any
    clean_prompt: str
    report: str
    stack: list[tuple[str, float, float]]
    warnings: tuple[str, ...]
    bank: Bank
    gates: Gates
    second: Any = None


@dataclass(frozen=True)
class SecondModel:
    """A MODEL that samples after the first under the same prompt, method and schedule. branches:
    the LoRA files for it, their strengths and roles."""

    model: Any
    branches: tuple[BranchFile, ...]


@dataclass(frozen=True)
class _Placed:
    """A MODEL with its lora_stack, and the branches planned on it."""

    model: Any
    clip: Any
    files: list[LoraFile]
    plan: Plan
    gates: Gates
    expert: Applied
    lines: tuple[str, ...]

    def attached(self, whole: Sequence[float] | None, *held: Any) -> Any:
        """The MODEL that carries the branches. held: what the MODEL of the next edit uses too: no
        CLIP, whose memory the host may need while the MODEL samples."""
        patchers = shared_patchers(self.plan.bank, self.files, self.model)
        held = (self.files, patchers, self.expert.file, *held)
        plan = self.plan
        made = attach(self.model, plan.bank, self.gates, whole, patchers, held, plan.gammas)
        if not is_routed(made):  # else the bank does so
            made.add_callback(CallbacksMP.ON_PRE_RUN, lambda _patcher: let_go())
        return made


def with_own_loras(
    names: Sequence[str], strengths: Sequence[float], extra: Sequence[BranchFile]
) -> tuple[BranchFile, ...]:
    """The Router's two own LoRAs, where chosen, before the extra branches.

    strengths: the dials of content and style; they multiply the extra branches of their role too.
    """
    roles: tuple[Role, ...] = ("content", "style")
    if not all(map(math.isfinite, strengths)):
        raise CraftError(
            f"The strengths are {strengths[0]} and {strengths[1]}",
            "A strength is a finite number",
            "Set one",
        )
    own = [
        BranchFile(name, role, strength)
        for name, role, strength in zip(names, roles, strengths, strict=True)
        if name != NONE
    ]
    dials = dict(zip(roles, strengths, strict=True))
    return (*own, *(replace(b, strength=b.strength * dials[b.role]) for b in extra))


def layer_set_text(menu: dict[str, Any] | str) -> str:
    """A preset's key, or the custom patterns, from what the host passes for the menu."""
    if isinstance(menu, str):
        return menu
    return menu[PATTERNS] if menu["layer_sets"] == CUSTOM else menu["layer_sets"]


def check_request(prompt: str | None, layer_sets: Any, method: Any) -> bool | str:
    """True, or why the inputs cannot work. prompt: None where it is linked. layer_sets, method:
    None where the menu has no such entry."""
    if layer_sets is None:
        return f"layer_sets: choose one of {', '.join([*PRESETS, CUSTOM])}."
    if method is None:
        return f"method: choose one of {', '.join(FUSION.keys())}."
    try:
        parse(prompt or "")
    except CraftError as error:
        return str(error)
    return True


def route(
    model: Any,
    clip: Any,
    request: RouterRequest,
    stack: Sequence = (),
    whole: bool = False,
    second: SecondModel | None = None,
) -> Routed:
    """Attach the branches to a clone of MODEL and encode the clean prompt. whole: as in planned.
    second: a MODEL to route beside it; then a schedule goes by the model's clock.

    Of the branches' files nothing is read, stored or moved that another MODEL uses already.
    """
    if clip is None:
        raise CraftError(
            "The Router's clip is empty: this checkpoint has no text encoder",
            "The prompt is encoded by a CLIP",
            "Load one with a CLIP loader and connect it",
        )
    if second is not None:
        request = _on_one_clock(request)
    marked = parse(request.prompt)
    placed = _place(model, clip, request, marked, stack, whole)
    made = placed.plan
    strengths = [b.strength * gamma for b, gamma in zip(request.branches, made.gammas, strict=True)]
    text, patches = patched_text(placed.clip, list(zip(placed.files, strengths, strict=True)))
    routed = Routed(
        placed.attached(request.whole_sigmas, patches),
        encoded(text, marked.clean, clip),
        marked.clean,
        "\n".join([*made.report, _time(request), *placed.lines]),
        [*stack, *_active(request.branches, made.gammas)],
        (*marked.unclosed, *_marker_warnings(request, marked), *_warnings(placed)),
        made.bank,
        placed.gates,
    )
    return routed if second is None else _with_second(routed, second, clip, request, stack)


def _on_one_clock(request: RouterRequest) -> RouterRequest:
    """The request for two MODELs that sample one after the other: a schedule that would begin anew
    in each sampler goes by the model's noise level instead, so that it goes on in the second."""
    if request.schedule is None or request.whole_sigmas is not None:
        return request
    return replace(request, schedule=replace(request.schedule, clock="model"))


def _with_second(
    routed: Routed, second: SecondModel, clip: Any, request: RouterRequest, stack: Sequence
) -> Routed:
    """With branches on the second MODEL as `route` attaches the request's to the first.

    The prompt is encoded once, for the first: text-encoder parts of other files do not act.
    A CraftError names the second model.
    """
    asked, marked = replace(request, branches=second.branches), parse(request.prompt)
    try:
        placed = _place(second.model, clip, asked, marked, stack, text=False)
    except CraftError as error:
        files = (
            f"second_content_lora and second_style_lora choose the files of this model, or {NONE}"
        )
        raise CraftError(
            f"second_model: {error.given}", error.possible, f"{error.action}. {files}"
        ) from error
    silent = _silent_text(request, asked, placed.files)
    lines = [*placed.plan.report, *silent, _time_of_both(request), *placed.lines]
    known = _marker_warnings(request, marked)
    markers = [text for text in _marker_warnings(asked, marked) if text not in known]
    warnings = [f"Second model: {text}" for text in [*markers, *_warnings(placed)]]
    return replace(
        routed,
        report="\n".join([routed.report, "", "Second model:", *lines]),
        warnings=(*routed.warnings, *warnings),
        second=placed.attached(request.whole_sigmas),
    )


def _place(
    model: Any,
    clip: Any,
    request: RouterRequest,
    marked: MarkedPrompt,
    stack: Sequence,
    whole: bool = False,
    text: bool = True,
) -> _Placed:
    """text: whether the files' text-encoder parts act on the CLIP."""
    connected = clip
    model, clip, stacked = apply_stack(model, clip, stack)
    files = [read_branch_file(b.name, model, request.allow_unmatched) for b in request.branches]
    made = planned(model, request, marked, files, clip if text else None, whole)
    expert = _expert(request, connected, marked, made.bank)
    gates = compose(made.gates, made.bank, request.schedule, expert.table)
    lines = (*expert.lines, *_expert_backbone(request, expert, model), *stacked,
             *_compiled(model, made))  # fmt: skip
    return _Placed(model, clip, files, made, gates, expert, lines)


def planned(
    model: Any,
    request: RouterRequest,
    marked: MarkedPrompt | None,
    files: Sequence[LoraFile],
    clip: Any = None,
    whole: bool = False,
) -> Plan:
    """The plan of the branches on this MODEL, by the request's method.

    marked: None where there is no prompt. clip: None where text-encoder parts go to none. whole:
    keep what no gate can reach, so that all methods have the same bank.
    """
    method, knobs = chosen(request.method, "method", FUSION)
    asked = PlanRequest(
        method, knobs, request.layer_sets, marked, request.allow_unmatched, whole=whole
    )  # fmt: skip
    pairs = zip(request.branches, files, strict=True)
    candidates = [given(one, file, model, clip) for one, file in pairs]
    with kept():
        return plan(candidates, asked, model_names(model).layers)


def _expert(request: RouterRequest, clip: Any, marked: MarkedPrompt, bank: Bank) -> Applied:
    """The expert encoder's scales of these layers; none without one."""
    if not request.expert_encoder:
        return Applied()
    return apply_encoder(request.expert_encoder, clip, marked, request.branches, bank)


def _expert_backbone(request: RouterRequest, expert: Applied, model: Any) -> tuple[str, ...]:
    """Where the expert encoder was trained on another backbone."""
    if expert.file is None:
        return ()
    called = f"Expert encoder {request.expert_encoder}"
    return backbone_lines(called, expert.file.metadata, projected_from(model))


def _active(files: Sequence[BranchFile], gamma: Sequence[float]) -> list[tuple[str, float, float]]:
    """LORA_STACK entries of the branches that are on."""
    return [(b.name, b.strength, b.strength) for b, g in zip(files, gamma, strict=True) if g]


def _compiled(model: Any, made: Plan) -> list[str]:
    """Why a MODEL that came compiled will not run so."""
    updates = (one for b in made.bank.branches for every in b.layers.values() for one in every)
    why = is_compiled(model, model.model_options) and why_uncompiled(updates)
    return [uncompiled_line(why)] if why else []


def _silent_text(
    request: RouterRequest, second: RouterRequest, files: Sequence[LoraFile]
) -> list[str]:
    """Report lines of text-encoder parts that only the second model's files have."""
    first = {require(branch) for branch in request.branches}
    return [
        f"{branch.name}: its text-encoder part does not act, as the prompt is encoded once, with "
        "the first model's files"
        for branch, file in zip(second.branches, files, strict=True)
        if file.text_encoder and require(branch) not in first
    ]


def _marker_warnings(request: RouterRequest, marked: MarkedPrompt) -> list[str]:
    """The roles whose LoRAs are off for want of a marker."""
    if not FUSION[request.method["method"]].traits.markers:
        return []
    present = {"content": marked.has_content, "style": marked.has_style}
    return [
        NO_MARKER.format(marker=f"<{role[0]}>", role=role)
        for role in ("content", "style")
        if not present[role] and any(b.role == role for b in request.branches)
    ]


def _warnings(placed: _Placed) -> tuple[str, ...]:
    """What the user should see of a model without opening the report."""
    out = []
    if placed.plan.early:
        out.append(placed.plan.early)
    if placed.plan.faults:
        ignored = "; ".join(placed.plan.faults)
        out.append(f"Ignored, as allow_unmatched is on: {ignored}.")
    return (*out, *placed.expert.warnings)


def _time(request: RouterRequest) -> str:
    """What the steps are counted over, and what the schedule's progress runs over."""
    whole = request.whole_sigmas
    steps = f"the {len(whole) - 1} steps of whole_sigmas" if whole else "each sampler's own steps"
    by_model = request.schedule is not None and request.schedule.clock == "model"
    return f"Time: {steps}" + ("; the schedule: the model's noise range" if by_model else "")


def _time_of_both(request: RouterRequest) -> str:
    """What time runs over where a second model samples after the first."""
    if request.whole_sigmas is not None:
        return _time(request)
    return (
        "Time: a schedule goes by the noise level in both models, whatever its clock; a method "
        "that counts steps begins anew in each sampler, unless whole_sigmas is connected"
    )
