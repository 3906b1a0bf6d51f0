"""What the Router does: files and a marked prompt in, a routed MODEL, conditioning and report out.

CRAFT-LoRA (2026), arXiv:2602.18936, Sec. 3.4.1 and Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...craft_core.errors import CraftError, listed
from ...craft_core.families import runs_early
from ...craft_core.fusion import FUSION
from ...craft_core.fusion.compose import compose
from ...craft_core.messages import NO_MARKER
from ...craft_core.routing.markers import MarkedPrompt, parse
from ...craft_core.routing.plan import Plan, PlanRequest, plan
from ...craft_core.routing.presets import PRESETS
from ...craft_core.schedule.schedule import Schedule
from ...craft_core.types import Bank, Gates, LoraFile, Role
from ..engine.compiled import is_compiled, uncompiled_line, why_uncompiled
from ..engine.engine import attach
from ..engine.modules import model_names
from ..model.expert_encoder import Applied, apply_encoder
from ..model.given import given, kept
from ..model.in_use import shared_patchers
from ..model.lora_files import NONE, BranchFile, apply_stack, patched_text, read_branch_file
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
    model: Any
    conditioning: Any
    clean_prompt: str
    report: str
    stack: list[tuple[str, float, float]]
    warnings: tuple[str, ...]
    bank: Bank
    gates: Gates


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
) -> Routed:
    """Attach the branches to a clone of MODEL and encode the clean prompt. whole: as in planned.

    Of the branches' files nothing is read, stored or moved that another MODEL uses already.
    """
    if clip is None:
        raise CraftError(
            "The Router's clip is empty: this checkpoint has no text encoder",
            "The prompt is encoded by a CLIP",
            "Load one with a CLIP loader and connect it",
        )
    marked, connected = parse(request.prompt), clip
    model, clip, stacked = apply_stack(model, clip, stack)
    files = [read_branch_file(b.name, model, request.allow_unmatched) for b in request.branches]
    made = planned(model, request, marked, files, clip, whole)
    expert = _expert(request, connected, marked, made.bank)
    gates = compose(made.gates, made.bank, request.schedule, expert.table)
    strengths = [b.strength * gamma for b, gamma in zip(request.branches, made.gammas, strict=True)]
    text = patched_text(clip, list(zip(files, strengths, strict=True)))
    patchers = shared_patchers(made.bank, files, model)
    held = (files, patchers, text)  # for the MODEL of the next edit
    return Routed(
        attach(model, made.bank, gates, request.whole_sigmas, patchers, held),
        text.clip.encode_from_tokens_scheduled(text.clip.tokenize(marked.clean)),
        marked.clean,
        "\n".join([*made.report, _time(request), *expert.lines, *stacked, *_compiled(model, made)]),
        [*stack, *_active(request.branches, made.gammas)],
        (*_warnings(request, marked, made.faults, made.bank.layers), *expert.warnings),
        made.bank,
        gates,
    )


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


def _active(files: Sequence[BranchFile], gamma: Sequence[float]) -> list[tuple[str, float, float]]:
    """LORA_STACK entries of the branches that are on."""
    return [(b.name, b.strength, b.strength) for b, g in zip(files, gamma, strict=True) if g]


def _compiled(model: Any, made: Plan) -> list[str]:
    """Why a MODEL that came compiled will not run so."""
    updates = (one for b in made.bank.branches for every in b.layers.values() for one in every)
    why = is_compiled(model, model.model_options) and why_uncompiled(updates)
    return [uncompiled_line(why)] if why else []


def _warnings(
    request: RouterRequest, marked: MarkedPrompt, faults: Sequence[str], layers: Sequence[str]
) -> tuple[str, ...]:
    """What the user should see without opening the report."""
    out = []
    present = {"content": marked.has_content, "style": marked.has_style}
    if FUSION[request.method["method"]].traits.markers:
        for role in ("content", "style"):
            if not present[role] and any(b.role == role for b in request.branches):
                out.append(NO_MARKER.format(marker=f"<{role[0]}>", role=role))
    early = [path for path in layers if runs_early(path)]
    if early:
        out.append(
            f"{len(early)} of the LoRAs' layers do not act, since ComfyUI runs them once, before "
            f"it samples: {listed(early, 2)}."
        )
    if faults:
        out.append("Ignored, as allow_unmatched is on: " + "; ".join(faults) + ".")
    return tuple(out)


def _time(request: RouterRequest) -> str:
    """What the steps are counted over, and what the schedule's progress runs over."""
    whole = request.whole_sigmas
    steps = f"the {len(whole) - 1} steps of whole_sigmas" if whole else "each sampler's own steps"
    by_model = request.schedule is not None and request.schedule.clock == "model"
    return f"Time: {steps}" + ("; the schedule: the model's noise range" if by_model else "")
