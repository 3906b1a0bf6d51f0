"""The engine: a bank of branches with gates, carried by a MODEL through any sampler of the host.

One batched forward serves conditional and unconditional rows; the low-rank work runs on the rows
whose gate is not zero. Two wrappers do it: around a sampling run, hooks are attached and the
conditionings named; around each model call, the gates of its moment are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.fusion.compose import Timed
from ...craft_core.guidance import GUIDANCE
from ...craft_core.time import Moment, Timeline, model_table
from ...craft_core.types import Bank, Gates
from .bank import BranchPart, branch_patcher, layer_parts
from .compiled import branches_in_compiled, is_compiled, looking_for_hooks
from .conditionings import ConditioningKind, ConditioningKinds
from .guiding import Guiding, guide
from .hooks import GatedChunks, ModelCall, attached, layer_hooks, without_kept_keys
from .recorder import RECORDERS, SAMPLER, Recorder, add_recorder
from .weights import KEY, answering

HELD = "craft_held"  # what a MODEL without a bank keeps alive
GUIDED_BY = "craft_guidance"  # key of the Guiding that a run follows
ASYMMETRIC = {"acfg": True, "cfg": False}  # the rules that the nodes' switch chooses between
KINDS = "craft_conditioning_kinds"
_WRAPPERS = comfy.patcher_extension.WrappersMP


@dataclass(frozen=True)
class _Running:
    """A model of a run. call: the one now running. acting: what a call in which branches act runs
    in, by the device of its inputs."""

    call: ModelCall
    acting: Callable[[torch.device], AbstractContextManager]


@dataclass
class _Session:
    """A sampling run: its time, its conditionings and its models, one for each device."""

    time: Timeline
    kinds: ConditioningKinds
    guiding: Guiding
    recorders: Sequence[Recorder] = ()
    models: dict[int, _Running] = field(default_factory=dict)
    batch: int | None = None  # images a conditioning evaluates, as the host says it


class RoutedBank:
    """The layers of a bank and its gates on one MODEL: the wrappers the host calls.

    places: by branch, which additional model under the key holds its updates; None where it acts
    nowhere. held: what the MODEL keeps alive beside them.
    shares: by what each layer's gates are multiplied, (layers, 1), where a node multiplied weights
    of the MODEL.
    """

    def __init__(
        self, bank: Bank, gates: Gates, whole: Sequence[float] | None, factors_key: str,
        places: Sequence[int | None], held: Any = None,
    ) -> None:  # fmt: skip
        self.layers, self.gates, self.whole = bank.layers, gates, whole
        self.roles = tuple(branch.role for branch in bank.branches)
        self.strengths = tuple(branch.strength for branch in bank.branches)
        self.where = tuple(frozenset(branch.layers) for branch in bank.branches)
        self.factors_key, self.places, self.held = factors_key, places, held
        self.shares: Tensor | None = None
        self._session: _Session | None = None

    def put_on(self, patcher: Any) -> None:
        """On a patcher, in place of the one with the same key; among other packs' wrappers it
        keeps its place."""
        patcher.set_attachments(self.factors_key, self)
        for kind, wrapper in self._wrappers():
            patcher.wrappers.setdefault(kind, {}).setdefault(self.factors_key, [])[:] = [wrapper]

    def take_off(self, patcher: Any) -> None:
        patcher.remove_attachments(self.factors_key)
        patcher.remove_additional_models(self.factors_key)
        for kind, _ in self._wrappers():
            patcher.remove_wrappers_with_key(kind, self.factors_key)

    def _wrappers(self) -> tuple[tuple[str, Callable], ...]:
        return (
            (_WRAPPERS.SAMPLER_SAMPLE, self.sample),
            (_WRAPPERS.CALC_COND_BATCH, self.count),
            (_WRAPPERS.APPLY_MODEL, self.apply),
        )

    def multiplied(self, path: str, factor: float) -> RoutedBank:
        """The same with the gates of a layer times the factor."""
        other = copy(self)
        other._session = None
        ones = torch.ones(len(self.layers), 1)
        other.shares = ones if self.shares is None else self.shares.clone()
        other.shares[self.layers.index(path)] *= factor
        return other

    def constant_gates(self, options: Mapping[str, Any]) -> Tensor | None:
        """(layers, branches), where the branches act alike at all moments and in all rows; else
        None. options: the transformer options, which name the guidance rule."""
        rule = (options.get(GUIDED_BY) or Guiding()).rule
        if self.gates.constant is None or not all(asked.branches for asked in rule.traits):
            return None
        return self._shared(self.gates.constant)

    def constant_share(self) -> float:
        """Of what a method can take out of updates, how much they lose where gates are constant."""
        return self.gates.share(Moment(0.0, 1))

    def _shared(self, table: Tensor) -> Tensor:
        return table if self.shares is None else table * self.shares

    def sample(self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, *args: Any):
        """SAMPLER_SAMPLE: runs after the host has loaded the model and prepared the conds."""
        options = extra_args["model_options"]
        with self._attach(guider, options, sigmas):
            return executor(guider, sigmas, extra_args, *args)

    @contextmanager
    def _attach(self, guider: Any, model_options: dict, sigmas: Tensor) -> Iterator[None]:
        options = model_options["transformer_options"]
        guiding = options.get(GUIDED_BY) or Guiding()
        kinds = options.setdefault(KINDS, ConditioningKinds())
        levels = noise_levels(guider.model_patcher)
        time = Timeline.of(sigmas.tolist(), levels, self.whole)
        if not kinds.banks:
            guide(model_options, guiding, kinds, time)
        copy_all = guiding.evaluation("uncond").branches
        kinds.join(guider.conds, self.gates.views, copy_all=copy_all)
        recorders = tuple(options.get(RECORDERS, {}).values())
        session = _Session(time, kinds, guiding, recorders)
        compiled = is_compiled(guider.model_patcher, guider.model_options)
        with ExitStack() as stack:
            for patcher in _patchers(guider):
                call, model = ModelCall(), patcher.model.diffusion_model
                hooks = layer_hooks(model, self.parts(patcher, self.layers), call)
                stack.enter_context(without_kept_keys(model))
                stack.enter_context(looking_for_hooks() if compiled else attached(hooks))
                acting = branches_in_compiled(hooks, call) if compiled else nullcontext
                session.models[id(patcher.model)] = _Running(call, acting)
            outer, self._session = self._session, session
            try:
                yield
            finally:
                self._session = outer

    def parts(self, patcher: Any, layers: Sequence[str]) -> dict[str, list[BranchPart]]:
        """What the branches add to each of the layers, on the patcher's device."""
        loaded = patcher.get_additional_models_with_key(self.factors_key)
        modules = [None if at is None else loaded[at].model for at in self.places]
        return {path: layer_parts(path, self.where, modules) for path in layers}

    def apply(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL: set the gates of this call, and clear them whatever happens."""
        session = self._session
        running = session and session.models.get(id(executor.class_obj))
        if session is None or running is None:  # a call from outside the sampling run
            return executor(*args, **kwargs)
        call = running.call
        options = args[5] if len(args) > 5 else kwargs["transformer_options"]
        rows = args[0].shape[0]
        call.set(*self._runs(session, options, rows))
        call.share = self.gates.share(session.time.at(float(options["sigmas"][0])))
        call.doubled = 2 * rows if kwargs.get("ref_latents") else None
        try:
            with running.acting(args[0].device) if call.runs else nullcontext():
                return executor(*args, **kwargs)
        finally:
            call.clear()

    def count(
        self, executor: Any, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, *args: Any
    ) -> Any:
        """CALC_COND_BATCH: how many images each conditioning is about to evaluate; views that
        would all be the backbone's are evaluated once."""
        session = self._session
        if session is not None:
            session.batch = x_in.shape[0]
            alone = session.kinds.banks == 1 < session.kinds.views
            if alone and not self._table(session, float(timestep[0])).any():
                conds = session.kinds.first_views(conds)
        return executor(model, conds, x_in, timestep, *args)

    def _runs(self, session: _Session, options: dict, rows: int) -> tuple[int, list[GatedChunks]]:
        """The call's chunks as runs of equal kinds, each with its gate table.

        A wrapper that samples in tiles repeats the whole batch once a tile, and so do the runs.
        """
        uuids = options.get("uuids") or [None]
        sigma = float(options["sigmas"][0])
        table = self._table(session, sigma)
        kinds = [session.kinds.of(key) for key in uuids]
        for recorder in session.recorders:
            names = [kind.evaluation for kind in kinds]
            weights = session.guiding.weights(session.time.at(sigma))
            recorder.note(self.factors_key, self.layers, self.roles, sigma, table, names, weights)
        runs, at = [], 0
        for kind, members in groupby(kinds):
            size = len(list(members))
            gates = self._gates(table, kind, session.guiding)
            if gates is not None:
                runs.append(GatedChunks(at, at + size, gates))
            at += size
        return _tiled(_joined(runs), len(uuids), rows, session.batch)

    def _table(self, session: _Session, sigma: float) -> Tensor:
        return self._shared(self.gates.at(session.time.at(sigma)))

    def _gates(
        self, table: Tensor, kind: ConditioningKind, guiding: Guiding
    ) -> list[list[float]] | None:
        rows = guiding.gates(table, kind.evaluation, self.roles)  # (views, layers, branches)
        view = kind.view if len(rows) > 1 else 0
        return rows[view].tolist() if rows.any() else None


def _tiled(
    runs: list[GatedChunks], chunks: int, rows: int, batch: int | None
) -> tuple[int, list[GatedChunks]]:
    """(chunks, runs) of a call of `rows` rows: those of one pass, repeated for every tile."""
    alike = not runs or (runs[0].start, runs[0].stop) == (0, chunks)
    if alike or batch is None or rows == chunks * batch:
        return chunks, runs
    tiles, rest = divmod(rows, chunks * batch)
    if rest:
        raise CraftError(
            f"The model is called with {rows} rows for {chunks} conditionings of {batch} images",
            "Asymmetric guidance needs to know which rows are whose",
            "Turn asymmetric off, or take out the node that rearranges the batch",
        )
    return tiles * chunks, [
        GatedChunks(tile * chunks + run.start, tile * chunks + run.stop, run.gates)
        for tile in range(tiles)
        for run in runs
    ]


def _joined(runs: list[GatedChunks]) -> list[GatedChunks]:
    """Neighbouring runs with the same gates as one, so that plain CFG is a single product."""
    out: list[GatedChunks] = []
    for run in runs:
        if out and out[-1].stop == run.start and out[-1].gates == run.gates:
            out[-1] = GatedChunks(out[-1].start, run.stop, run.gates)
        else:
            out.append(run)
    return out


def _patchers(guider: Any) -> list[Any]:
    """The patchers of the models that this run evaluates: one for each device."""
    clones = guider.model_options.get("multigpu_clones")
    return list(clones.values()) if clones else [guider.model_patcher]


def attach(
    model: Any,
    bank: Bank,
    gates: Gates,
    whole: Sequence[float] | None = None,
    patchers: Sequence[Any] | None = None,
    held: Any = None,
) -> Any:
    """A clone of MODEL that carries the bank; nothing of the given MODEL changes. Nodes that ask
    for its weights find the branches in them (weights.py).

    whole: the sigmas that a sampler's run is a part of, where several make one picture.
    patchers: of the branches, for those that act (engine.bank), where MODELs share them; they may
    hold more layers than the bank. held: an object that lives as long as the clone and its clones.
    """
    routed, bank = model.clone(), gates.bank or bank
    if not bank.layers:
        if held is not None:
            routed.set_attachments(HELD, held)
        return routed
    if patchers is None:
        patchers = [one.layers and branch_patcher(one.layers, routed) for one in bank.branches]
    loaded: list[Any] = []  # each once, where branches share a file
    places: list[int | None] = []
    for branch, patcher in zip(bank.branches, patchers, strict=True):
        if branch.layers and patcher not in loaded:
            loaded.append(patcher)
        places.append(loaded.index(patcher) if branch.layers else None)
    key = f"{KEY}_{sum(1 for name in routed.additional_models if name.startswith(KEY))}"
    routed.set_additional_models(key, loaded)
    RoutedBank(bank, gates, whole, key, places, held).put_on(routed)
    return answering(routed)


def is_routed(model: Any) -> bool:
    return any(name.startswith(KEY) for name in model.additional_models)


def strengths_by_role(model: Any) -> dict[str, float]:
    """The largest strength of a role's branches on a MODEL."""
    found: dict[str, float] = {}
    for bank in model.attachments.values():
        if isinstance(bank, RoutedBank):
            for role, strength in zip(bank.roles, bank.strengths, strict=True):
                found[role] = max(found.get(role, 0.0), abs(strength))
    return found


def set_guidance(
    model: Any,
    rule: str,
    settings: dict[str, Any] | None = None,
    course: Timed | None = None,
    stays: bool = False,
) -> Any:
    """A clone that samples under the guidance rule of that key.

    settings: knobs of the rule; those left out keep their defaults. course: a schedule that the
    weights of content and style follow. stays: whether sampling nodes of ours keep it where their
    menu names no rule.
    """
    clone, chosen = model.clone(), GUIDANCE[rule]
    guiding = Guiding(chosen, chosen.knobs(settings or {}), course, stays)
    clone.model_options["transformer_options"][GUIDED_BY] = guiding
    return clone


def rule_that_stays(model: Any) -> Guiding | None:
    """The rule of a MODEL that a sampling node keeps; None where the node's own switch decides."""
    guiding = model.model_options["transformer_options"].get(GUIDED_BY)
    return guiding if guiding is not None and guiding.stays else None


def set_asymmetric(model: Any, asymmetric: bool) -> Any:
    """A clone under the guidance rule that the nodes' `asymmetric` switch chooses."""
    (rule,) = (key for key, chosen in ASYMMETRIC.items() if chosen == asymmetric)
    return set_guidance(model, rule)


def recorded(model: Any, reader: str = SAMPLER) -> tuple[Any, Recorder]:
    """(a clone whose sampling runs are recorded, the recorder). reader: who reads it."""
    clone, recorder = model.clone(), Recorder()
    add_recorder(clone.model_options["transformer_options"], reader, recorder)
    return clone, recorder


def noise_levels(model: Any, points: int = 1000) -> Any:
    """The model's sigmas, evenly spaced over its percent as the host's nodes count it."""
    sampling = model.get_model_object("model_sampling")
    inner = [float(sampling.percent_to_sigma(i / points)) for i in range(1, points)]
    return model_table([float(sampling.sigma_max), *inner, float(sampling.sigma_min)])
