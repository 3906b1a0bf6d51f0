"""One line to the user: on the node in the page, and in the host's log."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from server import PromptServer

LOG = logging.getLogger("craft")


def warn(node: type[io.ComfyNode], text: str) -> None:
    """Show `text` on the running node and log it as a warning."""
    LOG.warning(text)
    tell(node, text)


def tell(node: type[io.ComfyNode], text: str) -> None:
    """Show `text` on the running node; without a server (tests, scripts) there is none to show."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden is not None:
        server.send_progress_text(text, node.hidden.unique_id)
