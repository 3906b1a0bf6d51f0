"""Which LoRA acts in which layers, by which method, and what matched nothing: decided once.

CRAFT-LoRA (2026), arXiv:2602.18936, Sec. 3.4.1 and Algorithm 1. The Router, Method Sweep, Fuse
LoRAs to File, `fuse` without a model and Train Expert Encoder all ask here.

A LoRA is *on* if its strength is not 0; where a method reads markers, its marker has to be in
the prompt too. The layer sets `auto` and a method's statistics compare the LoRAs with a strength.
A LoRA's own layers, where the user wrote some, are the only ones it acts on by any method, and take
the place of its role's layer set, of a set that is part of the method too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import CraftError, listed
from ..families import runs_early
from ..lora.families import is_embedding
from ..lora.statistics import Meter, pair_statistics
from ..registry import Method
from ..types import Bank, Branch, Gates, LayerShapes, Routing, Statistics
from .auto import split_by_energy
from .layer_sets import LayerSets, of_one_role, resolve
from .markers import MarkedPrompt, gammas
from .presets import PRESETS

UNNAMED_SETS = ("auto", "all")  # the layer sets that need no names of a model's blocks


@dataclass(frozen=True)
class CandidateLora:
    """A LoRA to plan for.

    branch: with every layer its file adapts. layers: its own layer patterns, one a line; "" for
    its role's set. unmatched: keys of its file that name nothing in the model, nor in the text
    encoder where the caller has one. meter: measures the branch; None for a new one. cannot_act:
    what of its file cannot act, and why. notes: on how its file is read, for the report. lines:
    whole lines of the report.
    """

    branch: Branch
    layers: str = ""
    unmatched: tuple[str, ...] = ()
    meter: Meter | None = None
    cannot_act: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanRequest:
    """What the user asked for.

    method: a fusion method. layer_sets: a preset's key or lines of patterns. marked: the prompt;
    None where there is none, and every marker counts as there. named: whether the layers are
    called as in a model. whole: keep in the bank what no gate can reach, so that several methods
    have the same bank.
    """

    method: Method
    knobs: Mapping[str, Any] = field(default_factory=dict)
    layer_sets: str = "all"
    marked: MarkedPrompt | None = None
    allow_unmatched: bool = False
    named: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Plan:
    """What was decided.

    bank: the LoRAs on the layers they can act on. gates: the method's own, before strengths,
    schedule and expert encoder. By branch: gammas; layer_sets, where it may act if it is on;
    adapted, in how many layers its file has an update; active, in how many of them it acts, none
    where it is off. faults: what matched nothing and was allowed to. early: a sentence on layers
    where no branch acts, since the host runs them once, before it samples; "" without such. notes:
    report lines on own layers, faults and early ones. report: all lines for the user.
    """

    bank: Bank
    gates: Gates
    gammas: tuple[float, ...]
    layer_sets: tuple[frozenset[str], ...]
    adapted: tuple[int, ...]
    active: tuple[int, ...]
    faults: tuple[str, ...]
    early: str
    notes: tuple[str, ...]
    report: tuple[str, ...]


def plan(given: Sequence[CandidateLora], asked: PlanRequest, layers: LayerShapes) -> Plan:
    """Decide who acts where.

    layers: module path -> weight shape, in depth order. Raises CraftError for what matches
    nothing unless it is allowed, for layer sets that cannot be, and for weights that are not
    finite where they are compared.
    """
    sets = _layer_sets(given, asked, layers)
    own = [_own_layers(one, layers) for one in given]
    branches = [_restricted(one.branch, chosen) for one, chosen in zip(given, own, strict=True)]
    gamma = _gammas(branches, asked)
    allowed = _allowed(branches, own, sets)
    reachable = _reachable(branches, gamma, allowed)
    active = [len(branch.layers) for branch in reachable]
    faults = [*_faults(given, own), *_idle(given, own, gamma, active)]
    if sets.unmatched and sets_text(asked.method, asked.layer_sets) not in PRESETS:
        faults.append(f"layer patterns {listed(sets.unmatched)}")
    require_matched(faults, asked.allow_unmatched)

    statistics = _statistics(given, branches, asked.method.traits.statistics, layers)
    bank = Bank.of(branches if asked.whole else reachable, list(layers))
    gates = asked.method.function(bank, Routing(gamma, allowed, statistics), **asked.knobs)
    bank = gates.bank or bank
    adapted = [len(one.branch.layers) for one in given]
    early = _early(bank)
    notes = [
        *_own_lines(given, asked.method), *_file_lines(given), *fault_lines(faults),
        *filter(None, [early]),
    ]  # fmt: skip
    report = [
        *_sets_lines(asked),
        *_branch_lines(given, asked, gamma, list(zip(active, adapted, strict=True))),
        *_unused_lines(asked.method, sets),
        *notes,
        *([f"Prompt as encoded: {asked.marked.clean}"] if asked.marked else []),
        *gates.notes,
    ]
    return Plan(
        bank, gates, gamma, allowed, tuple(adapted), tuple(active), tuple(faults), early,
        tuple(notes), tuple(report),
    )  # fmt: skip


def require_matched(faults: Sequence[str], allowed: bool) -> None:
    """CraftError for what matches nothing, unless that is allowed."""
    if faults and not allowed:
        raise CraftError(
            "Something given matches nothing: " + "; ".join(faults),
            "Each key of a LoRA and each layer pattern should match this model",
            "Use files made for this model and patterns it has, or allow what matches nothing: "
            "allow_unmatched, on the command line --allow-unmatched",
        )


def unmatched_keys(name: str, keys: Sequence[str]) -> list[str]:
    """The faults of a file with keys that match nothing; none where there are none."""
    embeddings = [key for key in keys if is_embedding(key)]
    others = [key for key in keys if key not in embeddings]
    faults = [f"{name}: {len(others)} keys ({listed(others)})"] if others else []
    if embeddings:
        faults.append(
            f"{name}: an embedding beside the LoRA ({listed(embeddings)}), which no LoRA loader "
            "applies"
        )
    return faults


def inactive(name: str, faults: Sequence[str]) -> list[str]:
    """The fault of a file of which something cannot act; none where all can."""
    return [f"{name}: {len(faults)} that cannot act ({listed(faults, 3)})"] if faults else []


def fault_lines(faults: Sequence[str]) -> list[str]:
    """Report lines of what matched nothing and was allowed to."""
    return [f"Matches nothing: {fault}" for fault in faults]


def sets_text(method: Method, layer_sets: str) -> str:
    """The layer sets of a method: its own, the user's, or all layers if it uses no layer sets."""
    traits = method.traits
    return traits.pinned_layer_set or (layer_sets.strip() if traits.layer_sets else "all")


def used_sets(method: Method, layer_sets: str) -> str:
    """What a file made by a method records of its layer sets; "" if it uses none."""
    traits = method.traits
    return traits.pinned_layer_set or (layer_sets if traits.layer_sets else "")


def lacks_blocks(method: Method, layers: LayerShapes) -> str:
    """Why a method cannot run on a model that lacks the blocks it prescribes; "" where it can."""
    try:
        if method.traits.pinned_layer_set:
            resolve(method.traits.pinned_layer_set, layers)
    except CraftError as error:
        return error.given
    return ""


def require_unnamed_sets(method: Method, layer_sets: str) -> None:
    """CraftError where a method's layer sets are named by a model's blocks, for want of a model."""
    text = sets_text(method, layer_sets)
    if text not in UNNAMED_SETS:
        raise CraftError(
            f"{method.key} with the layer sets {text.splitlines()[0]} and no model",
            f"Without a model the layer sets {' and '.join(UNNAMED_SETS)} are known",
            "Give the model with --checkpoint or --unet, or choose "
            + ("another method" if method.traits.pinned_layer_set else "--layer-sets auto"),
        )


_Own = tuple[frozenset[str] | None, tuple[str, ...]]
"""(a LoRA's own layers, the patterns among them that match nothing); None where it has none."""


def _own_layers(one: CandidateLora, layers: LayerShapes) -> _Own:
    text = of_one_role(one.layers, one.branch.role)
    if not text:
        return None, ()
    sets = resolve(text, layers)
    return sets.of([one.branch.role])[0], sets.unmatched


def _restricted(branch: Branch, own: _Own) -> Branch:
    kept, _ = own
    if kept is None:
        return branch
    return replace(branch, layers={p: f for p, f in branch.layers.items() if p in kept})


def _layer_sets(
    given: Sequence[CandidateLora], asked: PlanRequest, layers: LayerShapes
) -> LayerSets:
    """By role. `auto` compares the files as they are, so that own layers move no other LoRA's."""
    if not given:
        return LayerSets(frozenset(), frozenset())
    if not asked.named:
        require_unnamed_sets(asked.method, asked.layer_sets)
    text = sets_text(asked.method, asked.layer_sets)
    if text != "auto":
        return resolve(text, layers)
    compared = _compared(given)
    branches = [one.branch for one in compared]
    statistics = pair_statistics(branches, layers, [_meter(one) for one in compared])
    return LayerSets(*split_by_energy(branches, layers, statistics))


def _compared(given: Sequence[CandidateLora]) -> Sequence[CandidateLora]:
    """Those with a strength; all, where none has one."""
    return [one for one in given if one.branch.strength] or given


def _meter(one: CandidateLora) -> Meter:
    return one.meter or Meter(one.branch.name, one.branch.layers)


def _gammas(branches: Sequence[Branch], asked: PlanRequest) -> tuple[float, ...]:
    """A LoRA of strength 0 is off, as one whose marker is absent: it has no turn, wins no layer."""
    dials: tuple[float, ...] = (1.0,) * len(branches)
    if asked.marked is not None and asked.method.traits.markers:
        dials = gammas(asked.marked, [branch.role for branch in branches])
    return tuple(
        gamma if branch.strength else 0.0 for gamma, branch in zip(dials, branches, strict=True)
    )


def _allowed(
    branches: Sequence[Branch], own: Sequence[_Own], sets: LayerSets
) -> tuple[frozenset[str], ...]:
    by_role = sets.of([branch.role for branch in branches])
    return tuple(
        role_set if chosen is None else chosen
        for (chosen, _), role_set in zip(own, by_role, strict=True)
    )


def _statistics(
    given: Sequence[CandidateLora],
    branches: Sequence[Branch],
    names: Sequence[str],
    layers: LayerShapes,
) -> Statistics | None:
    """What a method declares of the LoRAs with a strength, on the layers they can act on."""
    if not names or not branches:
        return None
    on = [(branch, _meter(one)) for branch, one in zip(branches, given, strict=True)
          if branch.strength]  # fmt: skip
    pairs = on or [(branch, _meter(one)) for branch, one in zip(branches, given, strict=True)]
    found = pair_statistics([branch for branch, _ in pairs], layers, [meter for _, meter in pairs])

    def declared(name: str) -> str:
        assert name in names, f"a method asks for {name} without declaring it"
        return name

    return Statistics(
        lambda name: found.shared(declared(name)), lambda name: found.alone(declared(name))
    )


def _reachable(
    branches: Sequence[Branch], gamma: Sequence[float], allowed: Sequence[frozenset[str]]
) -> list[Branch]:
    """The LoRAs without what no gate of the method can ever reach."""
    return [
        replace(b, layers={p: f for p, f in b.layers.items() if dial and p in where})
        for b, dial, where in zip(branches, gamma, allowed, strict=True)
    ]


def _faults(given: Sequence[CandidateLora], own: Sequence[_Own]) -> Iterator[str]:
    """Keys and own patterns that match nothing."""
    for one in given:
        yield from unmatched_keys(one.branch.name, one.unmatched)
        yield from inactive(one.branch.name, one.cannot_act)
    for one, (_, missed) in zip(given, own, strict=True):
        if missed:
            yield f"layers of {one.branch.name} ({listed(missed)})"


def _idle(
    given: Sequence[CandidateLora],
    own: Sequence[_Own],
    gamma: Sequence[float],
    active: Sequence[int],
) -> Iterator[str]:
    """LoRAs that are on and can act nowhere, those of a text encoder alone left out."""
    for one, (chosen, _), dial, count in zip(given, own, gamma, active, strict=True):
        branch = one.branch
        if dial and not count and branch.layers:
            where = f"its {branch.role} set" if chosen is None else "its own layers"
            yield f"{branch.name}: it adapts no layer of {where}"


def _early(bank: Bank) -> str:
    paths = [path for path in bank.layers if runs_early(path)]
    if not paths:
        return ""
    return (
        f"{len(paths)} of the LoRAs' layers are run once, before sampling ({listed(paths, 2)}): "
        "the Router's LoRAs do not act there, those of a LoRA loader do."
    )


def _sets_lines(asked: PlanRequest) -> Iterator[str]:
    method = asked.method
    yield f"Method: {method.key}. {method.summary}"
    if method.traits.pinned_layer_set:
        yield f"Layer sets: {method.traits.pinned_layer_set} (part of the method)"
    elif method.traits.layer_sets:
        yield f"Layer sets: {asked.layer_sets.strip()}"
    else:
        yield "Layer sets: not used by this method"


def _branch_lines(
    given: Sequence[CandidateLora],
    asked: PlanRequest,
    gamma: Sequence[float],
    counts: Sequence[tuple[int, int]],
) -> Iterator[str]:
    for one, dial, (active, adapted) in zip(given, gamma, counts, strict=True):
        b = one.branch
        phrases = getattr(asked.marked, b.role) if asked.marked else ()
        said = ", ".join(repr(phrase.text) for phrase in phrases) or "no marker"
        acts = f"acts on {active} of {adapted} adapted layers"
        if not dial:
            said = said if b.strength else "strength 0"
            acts = f"off: acts on 0 of {adapted} adapted layers" if adapted else "off"
        elif not adapted:
            acts = "acts on the text encoder alone"
        yield f"{b.role} {b.name}: strength {b.strength:g}, gamma {dial:g} ({said}), {acts}"
    if not given:
        yield "No LoRA chosen: the model passes through unchanged"


def _unused_lines(method: Method, sets: LayerSets) -> Iterator[str]:
    if not method.traits.markers:
        yield "Markers: not used by this method"
    if sets.unmatched:
        yield f"Layer patterns this model has no layers for: {', '.join(sets.unmatched)}"


def _file_lines(given: Sequence[CandidateLora]) -> Iterator[str]:
    for one in given:
        yield from (f"{one.branch.name}: {note}" for note in one.notes)
        yield from one.lines


def _own_lines(given: Sequence[CandidateLora], method: Method) -> Iterator[str]:
    for one in given:
        text = of_one_role(one.layers, one.branch.role)
        if text:
            patterns = [line.split(": ", 1)[1] for line in text.splitlines()]
            instead = "all its layers"
            if method.traits.pinned_layer_set:
                instead = f"the method's own {one.branch.role} layers"
            elif method.traits.layer_sets:
                instead = f"the {one.branch.role} set"
            yield f"{one.branch.name}: own layers {listed(patterns)}, in place of {instead}"
