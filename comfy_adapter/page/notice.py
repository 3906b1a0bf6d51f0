"""One line to the user: on the node in the page that queued the prompt, and in the host's log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from server import PromptServer

LOG = logging.getLogger("craft")
NOTICE = "craft_lora.notice"  # the event that web/js/page/runs.js listens to


def warn(node: type[io.ComfyNode], *texts: str, then: str = "") -> None:
    """Show all `texts` on the running node, and `then` below them; log each text as a warning."""
    for text in texts:
        LOG.warning(text)
    shown = [*texts, *([then] if then else [])]
    if shown:
        tell(node, "\n".join(shown))


def tell(
    node: type[io.ComfyNode],
    text: str,
    preset: str = "",
    resume: str = "",
    grid: Mapping[str, Any] | None = None,
) -> None:
    """Show `text` on the running node, in place of what it showed, in the page that queued the
    prompt. Without such a page (tests, scripts, a prompt of no client) there is none to show it.
    preset: a preset as JSON that the node found, for the page to apply and save. resume: the
    save_name under which a training that was stopped goes on. grid: labels of rows and columns,
    and the cells that are new, which are added to those of the same run."""
    server = getattr(PromptServer, "instance", None)
    if server is None or server.client_id is None or node.hidden is None:
        return
    context = get_executing_context()
    message = {
        "node": node.hidden.unique_id,
        "type": (node.SCHEMA or node.define_schema()).node_id,
        "prompt_id": context and context.prompt_id,
        "text": text,
        **({"preset": preset} if preset else {}),
        **({"resume": resume} if resume else {}),
        **({"grid": grid} if grid is not None else {}),
    }
    server.send_sync(NOTICE, message, server.client_id)


def blocked(text: str) -> ExecutionBlocker:
    """In place of an output: whatever uses it does not run, and the page shows `text`."""
    return ExecutionBlocker(text)
