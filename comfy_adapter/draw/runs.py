"""What the sampling runs of a MODEL left: of each sampler, that of its last prompt.

A MODEL with a log carries it through any sampler; a node after the samplers reads from it what
really acted. (run_map.py keeps pictures in the same way, for the page.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.patcher_extension
import torch
from comfy_execution.graph import DynamicPrompt
from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...client.progress import title_of
from ...craft_core.errors import CraftError
from ..engine.recorder import RECORDERS, Recorder, recording
from .activity import HEADING, Activity, activity_sheet

_LOG = "craft_log"  # its key in a MODEL's transformer options, its wrapper's and its recorder's
_OUTER = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE

Sampler = tuple[str, str]  # its id in the prompt, and its type, as the page reuses ids
_NONE = "connect models to see who acted"
_NO_PROMPT: Sampler = ("", "")


@dataclass
class RunsBySampler:
    """What the sampling runs of a MODEL left. node: the id of the node that gives the MODEL; None
    outside a prompt. kept: by sampler. prompt: the running one. ran: samplers that ran in it."""

    node: str | None
    kept: dict[Sampler, Any] = field(default_factory=dict)
    prompt: str = ""
    ran: set[Sampler] = field(default_factory=set)

    def begin(self, empty: Any) -> Sampler:
        """The sampler that runs now. Its first run in a prompt begins with `empty`.

        A sampler inside a node that the host expands counts as that node, because the host does
        not expand it again while it keeps its outputs. What is kept of samplers that left
        the prompt, or that this node no longer leads to, is dropped. Outside a prompt all is kept.
        """
        context = get_executing_context()
        if context is None:
            self.kept.setdefault(_NO_PROMPT, empty)
            return _NO_PROMPT
        dynprompt = get_progress_state().dynprompt
        if self.prompt != context.prompt_id:
            self.prompt, self.ran = context.prompt_id, set()
        node, here = (dynprompt.get_real_node_id(one) for one in (context.node_id, self.node))
        sampler = (node, node_type(dynprompt, node))
        if sampler not in self.ran:
            self.ran.add(sampler)
            self.kept[sampler] = empty
        for one in self.kept.keys() - self.ran:
            if node_type(dynprompt, one[0]) != one[1] or here not in _sources(dynprompt, one[0]):
                del self.kept[one]
        return sampler


def node_type(dynprompt: DynamicPrompt, node: str) -> str:
    """The node's type; empty where it is not in the prompt."""
    return dynprompt.get_node(node)["class_type"] if dynprompt.has_node(node) else ""


def _sources(dynprompt: DynamicPrompt, node: str) -> set[str]:
    """The node and all those of the prompt that lead to it; none where it is not in the prompt."""
    found, ahead = set(), [node]
    while ahead:
        one = ahead.pop()
        if one not in found and dynprompt.has_node(one):
            found.add(one)
            ahead += [
                link[0] for link in dynprompt.get_node(one)["inputs"].values() if is_link(link)
            ]
    return found


def sampler_title(node: str) -> str:
    """As the page calls the node. The maps' font has ASCII alone: else the node's type and id."""
    dynprompt = get_progress_state().dynprompt
    asked = dynprompt.get_node(node) if dynprompt.has_node(node) else {}
    title = str(title_of(asked))
    return title if title.isascii() else f"{asked['class_type']} #{node}"


@dataclass(frozen=True)
class SamplingRun:
    """A sampling run that ended well. sampler: its title, "" outside a prompt."""

    sampler: str
    steps: int
    recorder: Recorder

    def maps(self) -> list[Activity]:
        """A map for each bank of the MODEL; one without layers where nothing acts."""
        records = self.recorder.records.values()
        found = [Activity.recorded(one, self.steps) for one in records]
        return found or [Activity(torch.zeros(self.steps, 0, 2), ())]


@dataclass
class RunLog:
    """The runs of one MODEL. label: what the MODEL is called on a sheet."""

    label: str
    runs: RunsBySampler

    def add(self, recorder: Recorder, steps: int) -> None:
        sampler = self.runs.begin([])
        title = sampler_title(sampler[0]) if sampler[0] else ""
        self.runs.kept[sampler].append(SamplingRun(title, steps, recorder))

    def maps(self) -> list[tuple[str, Activity]]:
        """(label, map) of everything that ran; equal maps, as of several seeds, once."""
        samplers: list[list[tuple[str, Activity]]] = []
        for runs in self.runs.kept.values():
            different: list[tuple[str, Activity]] = []
            for run in runs:
                for one in run.maps():
                    if not any(_same(one, other) for _, other in different):
                        different.append((run.sampler, one))
            samplers.append(different)
        several = len(samplers) > 1
        return [
            (f"{self.label}\n{title}" if several else self.label, one)
            for different in samplers
            for title, one in different
        ]


def _same(one: Activity, other: Activity) -> bool:
    alike = (one.layers, one.row) == (other.layers, other.row)
    if (one.weights is None) != (other.weights is None):
        return False
    if one.weights is not None and not torch.equal(one.weights, other.weights):
        return False
    return alike and torch.equal(one.amounts, other.amounts)


def logged(model: Any, label: str, node: str | None) -> Any:
    """A clone of MODEL with a log of its sampling runs. node: the id of the node that gives it."""
    clone = model.clone()
    clone.model_options["transformer_options"][_LOG] = RunLog(label, RunsBySampler(node))
    clone.remove_wrappers_with_key(_OUTER, _LOG)
    clone.add_wrapper_with_key(_OUTER, _LOG, _logged)
    return clone


def log_of(model: Any) -> RunLog | None:
    """Of this MODEL's runs; None where it keeps none."""
    return model.model_options["transformer_options"].get(_LOG)


def runs_sheet(models: Sequence[Any]) -> Tensor:
    """IMAGE of who acted in the runs of MODELs with a log; without MODELs, a picture that says so.

    CraftError where a MODEL keeps no log.
    """
    given = [model for model in models if model is not None]
    logs = {id(log): log for log in map(log_of, given)}
    if None in logs.values():
        raise CraftError(
            "models has a MODEL that keeps no log of its sampling runs",
            "The map of who acted is drawn from the logs of Method Sweep's MODELs",
            "Connect Method Sweep's model, or nothing",
        )
    found = [one for log in logs.values() for one in log.maps() or [(log.label, None)]]
    labels, activities = zip(*found, strict=True) if found else ((), ())
    return activity_sheet(labels, activities, heading=HEADING if found else _NONE)


def _logged(executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Tensor, *args, **kwargs):
    """OUTER_SAMPLE: one sampling run. A failed or interrupted one is not kept."""
    options = executor.class_obj.model_options["transformer_options"]
    if _LOG in options.get(RECORDERS, {}):  # part of a run that is recorded
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)
    with recording(options, _LOG) as recorder:
        output = executor(noise, latent, sampler, sigmas, *args, **kwargs)
    options[_LOG].add(recorder, len(sigmas) - 1)
    return output
