"""What the Router does: files and a marked prompt in, a routed MODEL, conditioning and report out.

CRAFT-LoRA (2026), arXiv:2602.18936, Sec. 3.4.1 and Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...craft_core.errors import CraftError, listed
from ...craft_core.fusion import FUSION
from ...craft_core.fusion.compose import compose
from ...craft_core.registry import Method
from ...craft_core.routing.layer_sets import LayerSets, resolve
from ...craft_core.routing.markers import MarkedPrompt, gammas, parse
from ...craft_core.routing.presets import PRESETS
from ...craft_core.schedule.schedule import Schedule
from ...craft_core.types import Bank, Branch, Energies, Gates, LoraFile, Role, Routing
from ..engine.bank import bank_patcher
from ..engine.engine import attach
from ..engine.modules import model_layers
from ..model.energies import auto_sets, file_energies
from ..model.expert_encoder import Applied, apply_encoder
from ..model.lora_files import (
    NONE,
    BranchFile,
    apply_stack,
    branch,
    own_layers_text,
    patch_text_encoder,
    read,
)
from ..page.widgets import CUSTOM, PATTERNS, chosen

_SHOWN = 6  # names in a message


@dataclass(frozen=True)
class Request:
    """What the user asked of a Router. layer_sets: a preset's key or lines of patterns.
    method: the menu's value, {"method": key, knob: value}. expert_encoder: a file's name, "" for
    none."""

    prompt: str
    branches: tuple[BranchFile, ...]
    layer_sets: str
    method: dict[str, Any]
    schedule: Schedule | None = None
    allow_unmatched: bool = False
    expert_encoder: str = ""


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


@dataclass
class Shared:
    """What several routes of the same branches have in common.

    files: of the branches. factors: their patcher, made by the first route.
    """

    files: Sequence[LoraFile]
    factors: Any = None


def route(
    model: Any, clip: Any, request: Request, stack: Sequence = (), shared: Shared | None = None
) -> Routed:
    """Attach the branches to a clone of MODEL and encode the clean prompt."""
    if clip is None:
        raise CraftError(
            "The Router's clip is empty: this checkpoint has no text encoder",
            "The prompt is encoded by a CLIP",
            "Load one with a CLIP loader and connect it",
        )
    marked, connected = parse(request.prompt), clip
    model, clip, stacked = apply_stack(model, clip, list(stack))
    files = shared.files if shared else [read(b.name, model) for b in request.branches]
    gated = gate(model, request, marked, files, whole=shared is not None)
    method, bank, plan = gated.method, gated.bank, gated.plan
    expert = _expert(request, connected, marked, bank)
    gates = compose(gated.gates, bank, request.schedule, expert.table)
    text = _TextEncoder(clip)
    for chosen_file, file, gamma in zip(request.branches, files, plan.gammas, strict=True):
        text.add(file, chosen_file.strength * gamma)
    faults = require_matched(request, files, plan, text.missing)
    report = _report(request, method, marked, plan, faults, gates.notes)
    own_clock = request.schedule is not None and request.schedule.clock == "model"
    return Routed(
        attach(model, bank, gates, own_clock, _factors(shared, bank, model)),
        text.clip.encode_from_tokens_scheduled(text.clip.tokenize(marked.clean)),
        marked.clean,
        "\n".join([report, *expert.lines, *stacked]),
        [*stack, *_active(request.branches, plan.gammas)],
        (*_warnings(request, method, marked, faults), *expert.warnings),
        bank,
        gates,
    )


def gate(
    model: Any,
    request: Request,
    marked: MarkedPrompt,
    files: Sequence[LoraFile],
    whole: bool = False,
) -> Gated:
    """The method's own gates over the files' branches: before strengths, schedule and encoder.

    whole: keep what no gate can reach, so that all methods have the same bank.
    """
    layers = model_layers(model)
    branches = [branch(b, file) for b, file in zip(request.branches, files, strict=True)]
    bank = Bank.of(branches, list(layers))
    method, knobs = chosen(request.method, "method", FUSION)
    sets = _layer_sets(request, method, bank.branches, layers, model.load_device)
    plan = _plan(request, method, marked, bank, layers, sets)
    energies = _energies(request, method, bank, layers, model.load_device)
    bank = bank if whole else _reachable(bank, plan)
    routing = Routing(plan.gammas, plan.sets, energies)
    return Gated(method, bank, method.function(bank, routing, **knobs), plan)


def require_matched(
    request: Request, files: Sequence[LoraFile], plan: Plan, text: Sequence[Sequence[str]]
) -> list[str]:
    """Everything given that matches nothing; CraftError where that is not allowed.

    text: per file, the keys that the text encoder does not have.
    """
    faults = _faults(request, files, plan, text)
    if faults and not request.allow_unmatched:
        raise CraftError(
            "Something given matches nothing: " + "; ".join(faults),
            "Each key of a LoRA and each layer pattern should match this model",
            "Use files made for this model and patterns it has, or turn allow_unmatched on",
        )
    return faults


def _factors(shared: Shared | None, bank: Bank, model: Any) -> Any:
    """The patcher of the bank's factors; None for one of its own."""
    if shared is None or not bank.layers:
        return None
    if shared.factors is None:
        shared.factors = bank_patcher(bank, model)
    return shared.factors


def _expert(request: Request, clip: Any, marked: MarkedPrompt, bank: Bank) -> Applied:
    """The expert encoder's scales of these layers; none without one."""
    if not request.expert_encoder:
        return Applied()
    return apply_encoder(request.expert_encoder, clip, marked, request.branches, bank)


@dataclass(frozen=True)
class Plan:
    """Per branch: gamma, the layers it may act on, how many it adapts and how many it acts on."""

    gammas: tuple[float, ...]
    sets: tuple[frozenset[str], ...]
    adapted: tuple[int, ...]
    active: tuple[int, ...]
    unmatched: tuple[str, ...]
    own_unmatched: tuple[str, ...]


@dataclass(frozen=True)
class Gated:
    """A method at work on files: what of them it can reach, and its gates there."""

    method: Method
    bank: Bank
    gates: Gates
    plan: Plan


def _layer_sets(
    request: Request, method: Any, branches: Sequence[Branch], layers: Any, device: Any
) -> LayerSets:
    """The method's own sets, the user's, or all layers for a method that listens to none."""
    if not branches:
        return LayerSets(frozenset(), frozenset())
    text = method.traits.pinned_layer_set
    text = text or (request.layer_sets.strip() if method.traits.layer_sets else "all")
    if text == "auto":
        return auto_sets(*_on(request.branches, branches), layers, device)
    return resolve(text, layers)


def _plan(
    request: Request, method: Any, marked: MarkedPrompt, bank: Bank, layers: Any, sets: LayerSets
) -> Plan:
    """What each branch may do; a method that does not listen to markers gets them all at 1.

    A branch of strength 0 is off, as one whose marker is absent: it has no turn and wins no layer.
    """
    roles = [b.role for b in bank.branches]
    dials = gammas(marked, roles) if method.traits.markers else (1.0,) * len(roles)
    gamma = tuple(g if b.strength else 0.0 for g, b in zip(dials, bank.branches, strict=True))
    listens = method.traits.layer_sets
    own = [own_set(b, layers) if listens else (None, ()) for b in request.branches]
    found = sets.of(roles)
    by_branch = tuple(
        theirs if mine is None else mine for (mine, _), theirs in zip(own, found, strict=True)
    )
    missed = tuple(pattern for _, patterns in own for pattern in patterns)
    adapted = tuple(len(b.layers) for b in bank.branches)
    active = tuple(
        len(allowed & b.layers.keys()) for allowed, b in zip(by_branch, bank.branches, strict=True)
    )
    return Plan(gamma, by_branch, adapted, active, sets.unmatched, missed)


def _energies(
    request: Request, method: Any, bank: Bank, layers: Any, device: Any
) -> Energies | None:
    """How large the updates are of the branches that are on, for a method that compares them."""
    if not (method.traits.energies and bank.branches):
        return None
    return file_energies(*_on(request.branches, bank.branches), layers, device)


def _on(
    files: Sequence[BranchFile], branches: Sequence[Branch]
) -> tuple[Sequence[BranchFile], Sequence[Branch]]:
    """Those with a strength; all, where none has one."""
    on = [pair for pair in zip(files, branches, strict=True) if pair[1].strength]
    kept = on or list(zip(files, branches, strict=True))
    return [file for file, _ in kept], [one for _, one in kept]


def _reachable(bank: Bank, plan: Plan) -> Bank:
    """The bank without what no gate of the method can ever reach: it need not be loaded."""
    branches = [
        replace(b, layers={p: f for p, f in b.layers.items() if gamma and p in allowed})
        for b, gamma, allowed in zip(bank.branches, plan.gammas, plan.sets, strict=True)
    ]
    return Bank.of(branches, bank.layers)


def _active(files: Sequence[BranchFile], gamma: Sequence[float]) -> list[tuple[str, float, float]]:
    """LORA_STACK entries of the branches that are on."""
    return [(b.name, b.strength, b.strength) for b, g in zip(files, gamma, strict=True) if g]


def own_set(file: BranchFile, layers: Any) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """(a branch's own layers, patterns among them that match nothing); None for the role's."""
    text = own_layers_text(file.layers, file.role)
    if not text:
        return None, ()
    sets = resolve(text, layers)
    return sets.of([file.role])[0], sets.unmatched


class _TextEncoder:
    """The CLIP as the branches patch it, and the keys it does not have."""

    def __init__(self, clip: Any) -> None:
        self.clip, self.missing = clip, []

    def add(self, file: LoraFile, strength: float) -> None:
        self.clip, missing = patch_text_encoder(self.clip, file, strength)
        self.missing.append(missing)


def _faults(
    request: Request, files: Sequence[LoraFile], plan: Plan, text: Sequence[Sequence[str]]
) -> list[str]:
    """Everything given that matches nothing."""
    found = []
    for b, file, missing in zip(request.branches, files, text, strict=True):
        lost = [*file.unmatched, *missing]
        if lost:
            found.append(f"{b.name}: {len(lost)} keys ({listed(lost, _SHOWN)})")
    for b, gamma, active in zip(request.branches, plan.gammas, plan.active, strict=True):
        if gamma and not active:
            found.append(f"{b.name}: it adapts no layer of its {b.role} set")
    if plan.own_unmatched:
        found.append(f"layers of an extra branch {listed(plan.own_unmatched, _SHOWN)}")
    if plan.unmatched and request.layer_sets.strip() not in PRESETS:
        found.append(f"layer patterns {listed(plan.unmatched, _SHOWN)}")
    return found


def _warnings(
    request: Request, method: Any, marked: MarkedPrompt, faults: Sequence[str]
) -> tuple[str, ...]:
    """What the user should see without opening the report."""
    out = []
    present = {"content": marked.has_content, "style": marked.has_style}
    if method.traits.markers:
        for role in ("content", "style"):
            if not present[role] and any(b.role == role for b in request.branches):
                mark = role[0]
                out.append(f"The prompt has no <{mark}>, so the {role} branch is off.")
    if faults:
        out.append("Ignored, as allow_unmatched is on: " + "; ".join(faults) + ".")
    return tuple(out)


def _report(
    request: Request, method: Any, marked: MarkedPrompt, plan: Plan,
    faults: Sequence[str], notes: Sequence[str],
) -> str:  # fmt: skip
    lines = [f"Method: {method.key}. {method.summary}"]
    if method.traits.pinned_layer_set:
        lines.append(f"Layer sets: {method.traits.pinned_layer_set} (part of the method)")
    elif method.traits.layer_sets:
        lines.append(f"Layer sets: {request.layer_sets.strip()}")
    else:
        lines.append("Layer sets: not used by this method")
    for index, b in enumerate(request.branches):
        phrases = ", ".join(repr(p.text) for p in getattr(marked, b.role)) or "no marker"
        lines.append(
            f"{b.role} {b.name}: strength {b.strength:g}, gamma {plan.gammas[index]:g} "
            f"({phrases}), acts on {plan.active[index]} of {plan.adapted[index]} adapted layers"
        )
    if not request.branches:
        lines.append("No LoRA chosen: the model passes through unchanged")
    if not method.traits.markers:
        lines.append("Markers: not used by this method")
    if plan.unmatched:
        lines.append(f"Layer patterns this model has no layers for: {', '.join(plan.unmatched)}")
    lines += [f"Matches nothing: {fault}" for fault in faults]
    lines.append(f"Prompt as encoded: {marked.clean}")
    return "\n".join([*lines, *notes])
