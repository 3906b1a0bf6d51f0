"""How far a prompt is, from the events the server sends about it."""

from __future__ import annotations

from typing import Any


class RunProgress:
    """Takes events one by one. `done` of `total` nodes have run; the running one is at `step` of
    its `steps` (both 0 until it reports some)."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._titles = {name: title_of(node) for name, node in prompt.items()}
        self._through: set[str] = set()
        self._running = ""
        self.step, self.steps = 0.0, 0.0

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take one event of the websocket."""
        if kind == "execution_cached":
            self._through.update(self._titles.keys() & data.get("nodes", []))
        elif kind == "executing" and data.get("node"):
            self._through.update({self._running} & self._titles.keys())
            self._running = data["node"]
            self.step, self.steps = 0.0, 0.0
        elif kind == "progress" and data.get("max"):
            self.step, self.steps = data["value"], data["max"]

    @property
    def title(self) -> str:
        """What the page calls the running node; empty between nodes."""
        return self._titles.get(self._running, "")

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
    return (node.get("_meta") or {}).get("title") or node.get("class_type", "")
