"""How far a prompt is, from the events the server sends about it."""

from __future__ import annotations

from typing import Any

from ..craft_core.errors import plain
from .answers import number

_LONGEST = 100  # characters of a title


class RunProgress:
    """Takes events one by one. `done` of `total` nodes have run; the running one is at `step` of
    its `steps` (both 0 until it reports some)."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._titles = {name: title_of(node) for name, node in prompt.items()}
        self._through: set[str] = set()
        self._running = ""
        self.step, self.steps = 0.0, 0.0

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take one event of the websocket; what it lacks is passed over."""
        node = data.get("node")
        if kind == "execution_cached":
            nodes = data.get("nodes")
            known = (
                [one for one in nodes if isinstance(one, str)] if isinstance(nodes, list) else []
            )
            self._through.update(self._titles.keys() & known)
        elif kind == "executing" and isinstance(node, str):
            self._through.update({self._running} & self._titles.keys())
            self._running = node
            self.step, self.steps = 0.0, 0.0
        elif kind == "progress" and number(data.get("max")) > 0:
            self.steps = number(data["max"])
            self.step = min(max(number(data.get("value")), 0.0), self.steps)

    @property
    def title(self) -> str:
        """What the page calls the running node; empty between nodes."""
        return plain(self._titles.get(self._running, ""), _LONGEST)

    @property
    def done(self) -> int:
        return len(self._through)

    @property
    def total(self) -> int:
        return len(self._titles)

    @property
    def share(self) -> float:
        """0 at the start, 1 when every node has run; each node counts the same."""
        own = self.step / self.steps if self.steps else 0.0
        return min(1.0, (self.done + own) / max(self.total, 1))


def title_of(node: dict[str, Any]) -> str:
    """The title that the page gives a prompt's node, where the prompt has it; else its type."""
    about = node.get("_meta")
    title = about.get("title") if isinstance(about, dict) else None
    return str(title or node.get("class_type", ""))
