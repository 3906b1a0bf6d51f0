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

from .activity import recorded_sheet
from .recorder import RECORDER, Recorder

LOG = logging.getLogger("craft")
VIEWER = "craft_viewer"  # its key in a MODEL's transformer options, and its wrapper's
_OUTER = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE


@dataclass
class Viewer:
    """The node that shows the maps of a MODEL's runs, and the maps of the prompt under way.

    node: its id in the prompt; None where no prompt runs. before: whom it took the MODEL over from.
    pictures: as the host saved them, by what they show: runs that acted alike are shown once.
    """

    node: str | None
    before: Viewer | None = None
    prompt: str = ""
    pictures: dict[bytes, Any] = field(default_factory=dict)

    def is_seen(self) -> bool:
        """Whether a page waits for what this node shows."""
        server = getattr(PromptServer, "instance", None)
        asked = server is not None and server.client_id is not None
        running = asked and get_executing_context() is not None
        return running and get_progress_state().dynprompt.has_node(self.node)

    def show(self, recorder: Recorder, steps: int) -> None:
        """The map of a run that ended, beside those of the prompt's earlier runs."""
        new_prompt = self._begin()
        sheet = recorded_sheet(recorder, steps)
        new_map = sheet is not None and self._add(sheet)
        if new_prompt or new_map:
            self._send()
        self._withdraw_before()

    def withdraw(self) -> None:
        """Take away the maps of earlier prompts: another node shows this one's."""
        if not self.is_seen():
            return
        if self._begin():
            self._send()
        self._withdraw_before()

    def _withdraw_before(self) -> None:
        if self.before is not None:
            self.before.withdraw()

    def _begin(self) -> bool:
        """Whether this is the first that the prompt under way asks of this viewer."""
        prompt = get_executing_context().prompt_id
        if self.prompt == prompt:
            return False
        self.prompt, self.pictures = prompt, {}
        return True

    def _add(self, sheet: Tensor) -> bool:
        """Keep a picture of a map; False where there is one like it."""
        key = hashlib.sha256(sheet.numpy().tobytes()).digest()
        if key in self.pictures:
            return False
        (self.pictures[key],) = ui.PreviewImage(sheet).values
        return True

    def _send(self) -> None:
        server = PromptServer.instance
        message = {
            "node": self.node,
            "display_node": get_progress_state().dynprompt.get_display_node_id(self.node),
            "output": map_output(list(self.pictures.values())),
            "prompt_id": self.prompt,
        }
        server.send_sync("executed", message, server.client_id)


def map_output(pictures: list[Any]) -> dict[str, Any]:
    """A node's output in the page: these saved pictures, none to take away what it shows."""
    return {"images": pictures, "animated": (False,)}


def view_under(node: type[io.ComfyNode], model: Any) -> Any:
    """A clone of MODEL whose runs are shown under the running node."""
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    options[VIEWER] = Viewer(node.hidden and node.hidden.unique_id, options.get(VIEWER))
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
    if RECORDER in options or not viewer.is_seen():  # a recorder is another's, who shows the map
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)
    recorder = options[RECORDER] = Recorder()
    try:
        output = executor(noise, latent, sampler, sigmas, *args, **kwargs)
    finally:
        del options[RECORDER]
    try:
        viewer.show(recorder, len(sigmas) - 1)
    except OSError as error:  # a full disk: the picture that was sampled is worth more
        LOG.warning("The map of who acted could not be saved: %s", error)
    return output
