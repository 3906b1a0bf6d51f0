"""The engine: a bank of branches with gates, carried by a MODEL through any sampler of the host.

One batched forward serves conditional and unconditional rows; the low-rank work runs on the rows
whose gate is not zero. Two wrappers do it: around a sampling run, hooks are attached and the
conditionings named; around each model call, the gates of its moment are read.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from threading import Lock
from typing import Any

import comfy.model_sampling
import comfy.patcher_extension
import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.fusion.compose import Timed
from ...craft_core.guidance import GUIDANCE
from ...craft_core.messages import DID_NOT_ACT, MERGED_BEFORE, OTHER_NEGATIVE
from ...craft_core.time import ANY_MOMENT, Moment, Timeline, model_table
from ...craft_core.types import Bank, Gates
from ..living import let_go
from .bank import BranchPart, branch_patcher, layer_parts
from .compiled import (
    Graphs,
    compiled_by_host,
    is_compiled,
    looking_for_hooks,
    uncompiled,
    uncompiled_line,
    why_uncompiled,
)
from .conditionings import ConditioningKind, ConditioningKinds
from .control import (
    CopyHook,
    asked_within,
    calls_layers,
    controls_of,
    copied_layers,
    own_difference,
)
from .guiding import Guiding, guide
from .hooks import Around, GatedChunks, LayerHook, ModelCall, among, attached, layer_hooks
from .in_turn import Acting, LayerPart, adds, between, patches_of
from .recorder import RECORDERS, SAMPLER, Recorder, add_recorder
from .shortcuts import (
    forget_keys,
    keep_nothing,
    layers_called,
    without_kept_keys,
    without_replays,
)
from .weights import KEY, MERGED, answering, carriers, let_twin_go

LOG = logging.getLogger("craft")
HELD = "craft_held"  # what a MODEL without a bank keeps alive
GUIDED_BY = "craft_guidance"  # key of the Guiding that a run follows
ASYMMETRIC = {"acfg": True, "cfg": False}  # the rules that the nodes' switch chooses between
KINDS = "craft_conditioning_kinds"
ORDER_OF_LOADERS = (
    "A LoRA loader behind the Router loads a DoRA, OFT, BOFT or GLoRA, which depends on the weight "
    "it finds (%s). It acts as if it stood before the Router: put it there"
)
_WRAPPERS = comfy.patcher_extension.WrappersMP
_CALLBACKS = comfy.patcher_extension.CallbacksMP
_FROM_TABLE = comfy.model_sampling.ModelSamplingDiscrete.percent_to_sigma


@dataclass(frozen=True)
class _RunModel:
    """A model of a run. call: the one now running. hooks: by adapted layer. graphs: where
    torch.compile runs it."""

    call: ModelCall
    hooks: Mapping[str, LayerHook]
    graphs: Graphs | None = None

    def running(self, device: torch.device) -> AbstractContextManager:
        """What the call runs in. device: of its inputs."""
        if self.graphs is None:
            return nullcontext()
        if self.call.runs:
            return self.graphs.with_branches(device)
        self.graphs.without()
        return nullcontext()


@dataclass
class _Session:
    """A sampling run: its time, its conditionings and its models, one for each device, and those of
    ControlNets that copy a model's weights; by the id of the host's object.

    alike: whether the branches act alike in all model calls. asking: one model call at a time asks
    what is due; devices call theirs from threads of their own. batch: images a conditioning
    evaluates, as the host says it.
    """

    time: Timeline
    kinds: ConditioningKinds
    guiding: Guiding
    recorders: Sequence[Recorder] = ()
    alike: bool = False
    models: dict[int, _RunModel] = field(default_factory=dict)
    batch: int | None = None
    asking: Lock = field(default_factory=Lock)
    _level: tuple[Tensor, float] | None = None

    def sigma(self, sigmas: Tensor) -> float:
        """The noise level that the host hands on as this tensor. To read it waits for the device,
        so it is read once while the sampler asks for one prediction."""
        if self._level is None or self._level[0] is not sigmas:
            self._level = sigmas, float(sigmas.flatten()[0])
        return self._level[1]

    def moment(self, sigmas: Tensor) -> Moment:
        return self.time.at(self.sigma(sigmas))

    def forget_level(self) -> None:
        self._level = None


class RoutedBank:
    """The layers of a bank and its gates on one MODEL: the wrappers the host calls.

    modules: by branch, the host's id of the additional model that holds its updates, which its
    copies for other devices have too; None where it acts nowhere. held: what the MODEL keeps alive
    beside them.
    shares: by what each layer's gates are multiplied, (layers, 1), where a node multiplied weights
    of the MODEL. patched: how many patches a layer's weight had when the bank came onto the MODEL,
    where it had any: those behind them act after its branches.
    on: by branch, whether it is on; None: all that have a layer.
    """

    def __init__(
        self, bank: Bank, gates: Gates, whole: Sequence[float] | None, factors_key: str,
        modules: Sequence[Hashable | None], held: Any = None,
        patched: Mapping[str, int] | None = None, on: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.layers, self.gates, self.whole = bank.layers, gates, whole
        self.roles = tuple(branch.role for branch in bank.branches)
        self.strengths = tuple(branch.strength for branch in bank.branches)
        self.where = tuple(frozenset(branch.layers) for branch in bank.branches)
        dials = [1.0] * len(self.where) if on is None else on
        self.on = tuple(bool(d and where) for d, where in zip(dials, self.where, strict=True))
        self.factors_key, self.modules, self.held = factors_key, modules, held
        self.shares: Tensor | None = None
        self.patched = dict(patched or {})
        self._session: _Session | None = None
        self._sampled = True  # in the run that is going on, or was last

    def put_on(self, patcher: Any) -> None:
        """On a patcher, in place of the one with the same key; among other packs' wrappers it
        keeps its place."""
        patcher.set_attachments(self.factors_key, self)
        for kind, wrapper in self._wrappers():
            patcher.wrappers.setdefault(kind, {}).setdefault(self.factors_key, [])[:] = [wrapper]
        for kind, callback in self._callbacks():
            patcher.callbacks.setdefault(kind, {}).setdefault(self.factors_key, [])[:] = [callback]

    def take_off(self, patcher: Any) -> None:
        patcher.remove_attachments(self.factors_key)
        patcher.remove_additional_models(self.factors_key)
        for kind, _ in self._wrappers():
            patcher.remove_wrappers_with_key(kind, self.factors_key)
        for kind, _ in self._callbacks():
            patcher.remove_callbacks_with_key(kind, self.factors_key)

    def _callbacks(self) -> tuple[tuple[str, Callable], ...]:
        return (_CALLBACKS.ON_PRE_RUN, self.begun), (_CALLBACKS.ON_CLEANUP, self.ended)

    def _wrappers(self) -> tuple[tuple[str, Callable], ...]:
        return (
            (_WRAPPERS.SAMPLER_SAMPLE, self.sample),
            (_WRAPPERS.PREDICT_NOISE, self.predict),
            (_WRAPPERS.CALC_COND_BATCH, self.count),
            (_WRAPPERS.APPLY_MODEL, self.apply),
        )

    def multiplied(self, path: str, factor: float, patched: int) -> RoutedBank:
        """The same with the gates of a layer times the factor. patched: how many patches the
        layer's weight has then."""
        other = copy(self)
        other.patched = {**self.patched, path: patched}
        other._session, other._sampled = None, True
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
        return self.gates.share(ANY_MOMENT)

    def _shared(self, table: Tensor) -> Tensor:
        return table if self.shares is None else table * self.shares

    def begun(self, patcher: Any) -> None:
        """ON_PRE_RUN: a guider is about to use the MODEL."""
        let_go()
        self._sampled = False
        let_twin_go(patcher)

    def ended(self, _patcher: Any) -> None:
        """ON_CLEANUP: CraftError where it used the MODEL and sampled with another one's wrappers,
        so that the branches never acted. What a run fails with by itself comes first."""
        missed, self._sampled = not self._sampled, True
        if missed and sys.exc_info()[0] is None:
            raise DID_NOT_ACT.error()

    def sample(self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, *args: Any):
        """SAMPLER_SAMPLE: runs after the host has loaded the model and prepared the conds."""
        self._sampled = True
        options = extra_args["model_options"]
        with self._attach(guider, options, sigmas):
            return executor(guider, sigmas, extra_args, *args)

    @contextmanager
    def _attach(self, guider: Any, model_options: dict, sigmas: Tensor) -> Iterator[None]:
        options = model_options["transformer_options"]
        guiding = options.get(GUIDED_BY) or Guiding()
        self._check_negative(guider, guiding)
        kinds = options.setdefault(KINDS, ConditioningKinds())
        levels = noise_levels(guider.model_patcher)
        time = Timeline.of(sigmas.tolist(), levels, self.whole)
        recorders = tuple(options.get(RECORDERS, {}).values())
        alike = self.constant_gates(options) is not None
        if not alike:
            keep_nothing(options)
        session = _Session(time, kinds, guiding, recorders, alike)
        if not kinds.banks:
            guide(model_options, guiding, kinds, session.moment)
        copy_all = guiding.evaluation("uncond").branches
        kinds.join(guider.conds, self.gates.views, copy_all=copy_all)
        with ExitStack() as stack:
            self._open(session, guider, stack)
            outer, self._session = self._session, session
            try:
                yield
            finally:
                self._session = outer

    def _check_negative(self, guider: Any, guiding: Guiding) -> None:
        """CraftError where the host's guider of two MODELs would evaluate the negative prompt with
        other LoRAs than its MODEL has: one network has the branches of this MODEL."""
        negative = getattr(guider, "uncond_model_patcher", None)
        if negative is None or getattr(guider, "uncond_inner", None) is None:  # not evaluated
            return
        if _banks(negative) == _banks(guider.model_patcher):
            return
        shared = negative.model is guider.model_patcher.model
        if is_routed(negative) or (shared and guiding.evaluation("uncond").branches):
            raise OTHER_NEGATIVE.error()

    def _open(self, session: _Session, guider: Any, stack: ExitStack) -> None:
        """Prepare the models of a run, until the stack is closed."""
        patchers, hooks, calls = _patchers(guider), {}, {}
        self._say_order(patchers[0])
        stack.enter_context(without_replays())
        stack.enter_context(layers_called())
        for patcher in patchers:
            model = patcher.model.diffusion_model
            key = id(patcher.model)
            calls[key] = ModelCall()
            around = partial(self._around, patcher, key)
            parts = self.parts(patcher, self.layers)
            hooks[key] = layer_hooks(model, parts, calls[key], around)
            stack.enter_context(without_kept_keys(model))
        in_graphs = any(is_compiled(one, guider.model_options) for one in patchers)
        if len(patchers) > 1 and compiled_by_host(guider.model_options):
            raise CraftError(
                "This MODEL is split among devices and compiled by Torch Compile Model, "
                "and the first device's network would run on all of them",
                "Routed LoRAs act on several devices, or on a compiled model",
                "Take out Torch Compile Model, or the node that splits the work",
            )
        if in_graphs:
            every = (one.parts(patchers[0], one.layers) for one in carriers(patchers[0]))
            updates = (part.update for one in every for parts in one.values() for part in parts)
            why = why_uncompiled(updates)
            in_graphs = why is None
            stack.enter_context(looking_for_hooks() if in_graphs else uncompiled())
            if why is not None:
                LOG.info(uncompiled_line(why))
        for key, call in calls.items():
            graphs = Graphs(hooks[key], call) if in_graphs else None
            by_path = {hook.path: hook for _, hook in hooks[key]}
            session.models[key] = _RunModel(call, by_path, graphs)
            if graphs is not None:
                stack.callback(graphs.without)
            else:
                stack.enter_context(attached(hooks[key]))
        for control in controls_of(guider.conds):
            patcher = _of_device(patchers, control.device)
            self._open_control(session, control.made, patcher, stack)

    def _open_control(
        self, session: _Session, control: Any, patcher: Any, stack: ExitStack
    ) -> None:
        """Have branches act in a ControlNet that computes with the MODEL's weights."""
        network = patcher.model.diffusion_model
        if calls_layers(control, network):
            running = session.models[id(patcher.model)]
        else:
            copied = copied_layers(control, self.layers)
            if not copied:
                return
            running = _RunModel(ModelCall(), {})
            hooks, made = [], dict[str, LayerHook]()
            for path, parts in self.parts(patcher, list(copied)).items():
                own, layer = copied[path], network.get_submodule(path)
                parts = [part for part in parts if own.has(part.update)]
                index, kind = self.layers.index(path), type(network).__name__
                hook = LayerHook(index, path, parts, running.call, layer, kind)
                after = own_difference(own.module, layer)
                around = partial(self._around, patcher, id(control), more=after)
                made[path] = among(hook, around)
                hooks.append((own.module, CopyHook(made[path], layer)))
            running = _RunModel(running.call, made)
            session.models[id(control)] = running
            stack.enter_context(attached(hooks))
        stack.enter_context(asked_within(control, partial(self._in_control, session, running)))

    @contextmanager
    def _in_control(
        self, session: _Session, running: _RunModel, x: Tensor, options: dict
    ) -> Iterator[None]:
        """A ControlNet's part of a model call: with the gates of its rows. One may ask another
        before it, and both the same layers."""
        call = running.call
        before = dict(vars(call))
        with session.asking:
            call.set(*self._runs(session, options, x.shape[0], noted=False))
            call.share = self.gates.share(self._moment(session, options["sigmas"]))
        try:
            with running.running(x.device):
                yield
        finally:
            vars(call).update(before)

    def _around(self, patcher: Any, key: int, path: str, more: LayerPart | None = None) -> Around:
        """What else acts on a layer: earlier banks of the MODEL, patches of its weight that came
        after a bank, and what comes after all of them. key: of the model among a session's."""
        banks, at = [], self.patched.get(path, 0)
        for bank in carriers(patcher):
            if bank is self:
                break
            hook = bank.hook_of(key, path)
            if hook is not None:
                banks.append((hook, bank.patched.get(path, 0)))
        places = [*(place for _, place in banks), at]
        every, after = (between(patcher, path, place) for place in (places[0], at))
        earlier: list[LayerHook | Acting] = [] if every is None else [Acting(every, -1.0)]
        for (hook, start), stop in zip(banks, places[1:], strict=True):
            patches = None if every is None else between(patcher, path, start, stop)
            earlier += [hook] if patches is None else [hook, Acting(patches, 1.0)]
        found = (None if every is None else after, more)
        return Around(earlier, [one for one in found if one is not None])

    def hook_of(self, key: int, path: str) -> LayerHook | None:
        """Its hook on a layer in the run now under way; None where it has none there."""
        made = self._session and self._session.models.get(key)
        return made.hooks.get(path) if made else None

    def _say_order(self, patcher: Any) -> None:
        """Log where the order of nodes is not the order in which their LoRAs act."""
        for path in self.layers:
            later = patches_of(patcher, path)[self.patched.get(path, 0) :]
            if not all(adds(one) for one in later):
                LOG.warning(ORDER_OF_LOADERS, path)
                return

    def parts(self, patcher: Any, layers: Sequence[str]) -> dict[str, list[BranchPart]]:
        """What the branches add to each of the layers, on the patcher's device."""
        found = {same_as(one): one.model for one in patcher.get_additional_models()}
        modules = [None if key is None else found[key] for key in self.modules]
        return {path: layer_parts(path, self.where, modules) for path in layers}

    def apply(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL: set the gates of this call, and clear them whatever happens."""
        session = self._session
        model = session and session.models.get(id(executor.class_obj))
        if session is None or model is None:  # a call from outside the sampling run
            return executor(*args, **kwargs)
        call = model.call
        options = args[5] if len(args) > 5 else kwargs["transformer_options"]
        rows = args[0].shape[0]
        with session.asking:
            call.set(*self._runs(session, options, rows))
            call.share = self.gates.share(self._moment(session, options["sigmas"]))
        call.doubled = 2 * rows if kwargs.get("ref_latents") else None
        if not session.alike:
            forget_keys(executor.class_obj.diffusion_model)
        try:
            with model.running(args[0].device):
                return executor(*args, **kwargs)
        finally:
            call.clear()

    def predict(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """PREDICT_NOISE: the sampler asks for a prediction, at a noise level not yet read."""
        if self._session is not None:
            self._session.forget_level()
        return executor(*args, **kwargs)

    def count(
        self, executor: Any, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, *args: Any
    ) -> Any:
        """CALC_COND_BATCH: how many images each conditioning is about to evaluate; views that
        would all be the backbone's are evaluated once, and those that the host could not average,
        one after another."""
        session = self._session
        if session is None:
            return executor(model, conds, x_in, timestep, *args)
        session.batch = x_in.shape[0]
        alone = session.kinds.banks == 1 < session.kinds.views
        if alone and not self._table(self._moment(session, timestep)).any():
            conds = session.kinds.first_views(conds)
        calls = session.kinds.in_calls(conds)
        found = [executor(model, call, x_in, timestep, *args) for call in calls]
        return session.kinds.averaged(calls, found)

    def _runs(
        self, session: _Session, options: dict, rows: int, noted: bool = True
    ) -> tuple[int, list[GatedChunks]]:
        """The call's chunks as runs of equal kinds, each with its gate table. noted: for recorders.

        A wrapper that samples in tiles repeats the whole batch once a tile, and so do the runs.
        """
        uuids = options.get("uuids") or [None]
        table = self._table(self._moment(session, options["sigmas"]))
        kinds = [session.kinds.of(key) for key in uuids]
        if session.recorders and noted:
            sigma, names = session.sigma(options["sigmas"]), [kind.evaluation for kind in kinds]
            weights = session.guiding.weights(session.time.at(sigma))
            for recorder in session.recorders:
                recorder.note(
                    self.factors_key, self.layers, self.roles, sigma, table, names, weights
                )
        runs, at = [], 0
        for kind, members in groupby(kinds):
            size = len(list(members))
            gates = self._gates(table, kind, session.guiding)
            if gates is not None:
                runs.append(GatedChunks(at, at + size, gates))
            at += size
        return _tiled(_joined(runs), len(uuids), rows, session.batch)

    def _moment(self, session: _Session, sigmas: Tensor) -> Moment:
        """Of a call at this noise level; any where the gates are constant, and nothing is read."""
        return session.moment(sigmas) if self.gates.constant is None else ANY_MOMENT

    def _table(self, moment: Moment) -> Tensor:
        return self._shared(self.gates.at(moment))

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
    if batch is None or rows == chunks * batch:
        return chunks, runs
    tiles, rest = divmod(rows, chunks * batch)
    if rest:
        if not runs or (runs[0].start, runs[0].stop) == (0, chunks):  # all rows alike
            return chunks, runs
        raise CraftError(
            f"The model is called with {rows} rows for {chunks} conditionings of {batch} images",
            "Asymmetric guidance needs to know which rows are whose",
            "Turn asymmetric off, or take out the node that rearranges the batch",
        )
    return tiles * chunks, _joined(
        [
            GatedChunks(tile * chunks + run.start, tile * chunks + run.stop, run.gates)
            for tile in range(tiles)
            for run in runs
        ]
    )


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


def _of_device(patchers: list[Any], device: torch.device | None) -> Any:
    """The one that a ControlNet for that device belongs to; None for the first device's."""
    return next((one for one in patchers if one.load_device == device), patchers[0])


def same_as(patcher: Any) -> Hashable:
    """What a patcher has in common with its clones and with its copies for other devices. Hosts
    before 0.24 know no such copies, and clones share their module."""
    return getattr(patcher, "clone_base_uuid", None) or id(patcher.model)


def attach(
    model: Any,
    bank: Bank,
    gates: Gates,
    whole: Sequence[float] | None = None,
    patchers: Sequence[Any] | None = None,
    held: Any = None,
    on: Sequence[float] | None = None,
) -> Any:
    """A clone of MODEL that carries the bank; nothing of the given MODEL changes. Nodes that ask
    for its weights find the branches in them (weights.py).

    whole: the sigmas that a sampler's run is a part of, where several make one picture.
    patchers: of the branches, for those that act (engine.bank), where MODELs share them; they may
    hold more layers than the bank. held: an object that lives as long as the clone and its clones.
    on: by branch, 0 for one that no gate ever lets act, though it may have layers.
    """
    routed, bank = model.clone(), gates.bank or bank
    if not bank.layers:
        if held is not None:
            routed.set_attachments(HELD, held)
        return answering(routed)
    if patchers is None:
        patchers = [one.layers and branch_patcher(one.layers, routed) for one in bank.branches]
    loaded: list[Any] = []  # each once, where branches share a file
    modules: list[Hashable | None] = []
    for branch, patcher in zip(bank.branches, patchers, strict=True):
        if branch.layers and patcher not in loaded:
            loaded.append(patcher)
        modules.append(same_as(patcher) if branch.layers else None)
    key = f"{KEY}_{sum(1 for name in routed.additional_models if name.startswith(KEY))}"
    routed.set_additional_models(key, loaded)
    patched = {path: len(patches_of(routed, path)) for path in bank.layers}
    RoutedBank(bank, gates, whole, key, modules, held, patched, on).put_on(routed)
    return answering(routed)


def _banks(patcher: Any) -> dict[str, int]:
    """Which routed banks a MODEL has: their keys, and which objects they are."""
    return {
        key: id(bank) for key, bank in patcher.attachments.items() if isinstance(bank, RoutedBank)
    }


def is_routed(model: Any) -> bool:
    return any(name.startswith(KEY) for name in model.additional_models)


def strengths_by_role(model: Any) -> dict[str, float]:
    """The largest strength of a role's branches that can act on a MODEL; no role of none."""
    found: dict[str, float] = {}
    for bank in model.attachments.values():
        if isinstance(bank, RoutedBank):
            for role, strength, on in zip(bank.roles, bank.strengths, bank.on, strict=True):
                if on:
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
    merged = model.get_attachment(MERGED)
    if merged is not None and not all(asked.branches for asked in chosen.traits):
        raise MERGED_BEFORE.error(layer=merged)
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
    inner = [i / points for i in range(1, points)]
    if type(sampling).percent_to_sigma is _FROM_TABLE:  # all at once: each waits for the device
        sigmas = sampling.sigma(torch.tensor([(1.0 - percent) * 999.0 for percent in inner]))
        inner = sigmas.tolist()
    else:
        inner = [float(sampling.percent_to_sigma(percent)) for percent in inner]
    return model_table([float(sampling.sigma_max), *inner, float(sampling.sigma_min)])
