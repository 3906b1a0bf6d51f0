"""One line to the user: on the node in the page, and in the host's log."""

from __future__ import annotations

import logging
import re

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from server import PromptServer

LOG = logging.getLogger("craft")
_SYNTAX = re.compile(r"[&<>*_`\[\]|~\\]|^[-+#=]|(?<=\d)[.)](?=\s)", re.MULTILINE)


def warn(node: type[io.ComfyNode], text: str) -> None:
    """Show `text` on the running node and log it as a warning."""
    LOG.warning(text)
    tell(node, text)


def tell(node: type[io.ComfyNode], text: str) -> None:
    """Show `text` on the running node; without a server (tests, scripts) there is none to show."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden is not None:
        server.send_progress_text(as_shown(text), node.hidden.unique_id)


def blocked(text: str) -> ExecutionBlocker:
    """In place of an output: whatever uses it does not run, and the page shows `text`."""
    return ExecutionBlocker(text)


def as_shown(text: str) -> str:
    """Text for the page, which reads it as HTML on the classic canvas and as Markdown on Vue nodes.

    Characters that mean something there, the markers' < and > above all, are entities; the two
    blanks keep a line break in Markdown.
    """
    entities = _SYNTAX.sub(lambda found: f"&#{ord(found[0])};", text)
    return entities.replace("\n", "  \n")
