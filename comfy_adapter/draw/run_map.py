"""The map of a sampling run in the page, under the node of ours that last touched the MODEL.

That node leaves a viewer on the MODEL. Whatever sampler then runs it, who acts is noted and, when
the run has ended well, the map is sent as the node's output, as the host sends outputs.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Any

import comfy.patcher_extension
from comfy_api.latest import io, ui
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ..engine.recorder import RECORDERS, SAMPLER, Recorder, recording
from .activity import recorded_sheet
from .runs import RunsBySampler, Sampler, sampler_title

LOG = logging.getLogger("craft")
VIEWER = "craft_viewer"  # its key in a MODEL's transformer options, and its wrapper's
_OUTER = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE


@dataclass(eq=False)
class Viewer:
    """The node that shows the maps of its MODELs' runs: of each sampler, those of its last prompt.

    node: its id in the prompt; None where no prompt runs. before: the MODELs' viewers before it.
    runs: the pictures of each sampler, as the host saved them, by what they show. sent: what was
    sent to the page in the running prompt; None before the first.
    """

    node: str | None
    before: list[Viewer] = field(default_factory=list)
    runs: RunsBySampler = field(init=False)
    sent: list[Any] | None = None

    def __post_init__(self) -> None:
        self.runs = RunsBySampler(self.node)

    @property
    def pictures(self) -> dict[Sampler, dict[bytes, Any]]:
        return self.runs.kept

    def is_seen(self) -> bool:
        """Whether a page is connected that shows what this node sends."""
        server = getattr(PromptServer, "instance", None)
        asked = server is not None and server.client_id is not None
        running = asked and get_executing_context() is not None
        return running and get_progress_state().dynprompt.has_node(self.node)

    def show(self, recorder: Recorder, steps: int) -> None:
        """The map of a run that ended, in place of those of its sampler's earlier prompts."""
        sampler = self._begin()
        sheet = recorded_sheet(recorder, steps, sampler_title(sampler[0]))
        if sheet is not None:
            self._add(sampler, sheet)
        self._send()
        self._withdraw_before()

    def withdraw(self) -> None:
        """Take away the maps that the running sampler left: another node shows this run's."""
        if not self.is_seen():
            return
        self._begin()
        self._send()
        self._withdraw_before()

    def _withdraw_before(self) -> None:
        for viewer in self.before:
            viewer.withdraw()

    def _begin(self) -> Sampler:
        """The sampler that runs; what an earlier prompt sent to the page counts no more."""
        before = self.runs.prompt
        sampler = self.runs.begin({})
        if self.runs.prompt != before:
            self.sent = None
        return sampler

    def _shown(self) -> dict[bytes, Any]:
        """All samplers' pictures, without repeats."""
        return {key: one for own in self.pictures.values() for key, one in own.items()}

    def _add(self, sampler: Sampler, sheet: Tensor) -> None:
        """Keep a picture of a map; one that is there already is not saved again."""
        key = hashlib.sha256(sheet.numpy().tobytes()).digest()
        saved = self._shown().get(key)
        if saved is None:
            (saved,) = ui.PreviewImage(sheet).values
        self.pictures[sampler][key] = saved

    def _send(self) -> None:
        """Send to the page that queued the prompt, unless the same was sent for this prompt."""
        pictures = list(self._shown().values())
        if pictures == self.sent:
            return
        self.sent = pictures
        server = PromptServer.instance
        message = {
            "node": self.node,
            "display_node": get_progress_state().dynprompt.get_display_node_id(self.node),
            "output": map_output(pictures),
            "prompt_id": self.runs.prompt,
        }
        server.send_sync("executed", message, server.client_id)


def map_output(pictures: list[Any]) -> dict[str, Any]:
    """A node's output in the page: these saved pictures, none to take away what it shows."""
    return {"images": pictures, "animated": (False,)}


def view_under(node: type[io.ComfyNode], model: Any, beside: Any = None) -> Any:
    """A clone of MODEL whose runs are shown under the running node; beside: another MODEL of that
    node, whose runs it shows too."""
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    viewer = viewer_of(beside) if beside is not None else None
    viewer = viewer or Viewer(node.hidden and node.hidden.unique_id)
    before = options.get(VIEWER)
    if before is not None and before not in viewer.before:
        viewer.before.append(before)
    options[VIEWER] = viewer
    clone.remove_wrappers_with_key(_OUTER, VIEWER)
    clone.add_wrapper_with_key(_OUTER, VIEWER, _watched)
    return clone


def viewer_of(model: Any) -> Viewer | None:
    """Who shows this MODEL's runs; None where nobody is to (a sweep's, a plain one)."""
    return model.model_options["transformer_options"].get(VIEWER)


def _watched(executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Tensor, *args, **kwargs):
    """OUTER_SAMPLE: one sampling run. A failed or interrupted one shows nothing."""
    options = executor.class_obj.model_options["transformer_options"]
    viewer = options[VIEWER]
    readers = options.get(RECORDERS, {})  # the sampling node shows the map itself, or a run around
    if SAMPLER in readers or VIEWER in readers or not viewer.is_seen():
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)
    with recording(options, VIEWER) as recorder:
        output = executor(noise, latent, sampler, sigmas, *args, **kwargs)
    try:
        viewer.show(recorder, len(sigmas) - 1)
    except OSError as error:  # on a full disk the sampled picture matters more than the map
        LOG.warning("The map of who acted could not be saved: %s", error)
    return output
