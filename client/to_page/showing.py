"""A prompt's values written into the widgets of the workflow that it was made of.

A value goes where the page reads it from: into the node's widget, the primitive that feeds it, or
the widget that the instance of a subgraph shows. Where that feeds other inputs too, which are to
keep theirs, or where a node's output stands in its place, the link is cut and the node's own widget
takes the value. What was written is read again, and what is not yet right is written once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ..from_page.graph import PRIMITIVE, Graph, Widget
from ..from_page.prompt import BROKEN, NodeSources, prompt_and_sources
from ..widgets import Json, unboxed, with_widget_values
from .draft import Draft, Level, NotShown

ROUNDS = 5  # cutting a link may uncover another value, which is written in the next round
_ABSENT = object()
_Changes = dict[tuple[str, str], Any]  # (node of the prompt, input) -> what it is to have


def showing(workflow: Json, base: Json, prompt: Json, object_info: Json) -> Json | None:
    """The page's workflow with a prompt's values in its widgets, so that a picture restores it.

    base: the workflow's own prompt. None where the workflow cannot become this prompt: with a value
    for what is no widget, or inside a group node of an older page, or where it is damaged. The
    workflow is not written to.
    """
    draft, tried = Draft(workflow), None
    try:
        if not _changes(base, prompt):
            return workflow
        for _ in range(ROUNDS):
            shown = draft.workflow()
            now, nodes = prompt_and_sources(shown, object_info)
            changes = _changes(now, prompt)
            if not changes:
                return shown
            if changes == tried:
                break
            _Round(draft, object_info, nodes, prompt).write(changes)
            tried = changes
    except (NotShown, *BROKEN):
        pass
    return None


def _changes(now: Json, wanted: Json) -> _Changes:
    """What is to change for one prompt to become another; NotShown where they have other nodes."""
    kinds, wanted_kinds = (
        {node: one["class_type"] for node, one in prompt.items()} for prompt in (now, wanted)
    )
    if kinds != wanted_kinds:
        raise NotShown("other nodes")
    return {
        (node, name): new.get(name, _ABSENT)
        for node, old, new in (
            (node, one["inputs"], wanted[node]["inputs"]) for node, one in now.items()
        )
        for name in old | new
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    }


class _Round:
    """Each input that is not as wanted is written to, by where its value comes from."""

    def __init__(
        self, draft: Draft, object_info: Json, nodes: dict[str, NodeSources], wanted: Json
    ) -> None:
        self._draft, self._info, self._nodes, self._wanted = draft, object_info, nodes, wanted
        self._fed: dict[tuple[Any, ...], list[tuple[str, str]]] = defaultdict(list)
        for path, node in nodes.items():
            for name, source in node.inputs.items():
                if source.widget is not None:
                    self._fed[source.widget.key].append((path, name))
        self._values: dict[tuple[Any, ...], tuple[Graph, Json, Json]] = {}  # of nodes' own widgets

    def write(self, changes: _Changes) -> None:
        """NotShown where there is no place for a value."""
        own = []
        for (path, name), value in changes.items():
            if isinstance(value, list):
                raise NotShown("another link")
            node = self._nodes[path]
            widget = node.inputs[name].widget if name in node.inputs else None
            if widget is not None and self._all_want(widget, value):
                self._set(widget, value)
            else:
                own.append((node, name, value))
        for node, name, value in own:  # last: where links are cut, instances lose values
            self._cut(node, name)
            if value is not _ABSENT:
                self._set(Widget(node.graph, node.node, name), value)
        for graph, node, values in self._values.values():
            written = self._draft.level(graph.instances).node(node["id"])
            info = self._info[written["type"]]
            written["widgets_values"] = with_widget_values(written, info, values)

    def _all_want(self, widget: Widget, value: Any) -> bool:
        """Whether all that a widget feeds is to have the value."""
        return value is not _ABSENT and all(
            self._wanted[path]["inputs"].get(name, _ABSENT) == value
            for path, name in self._fed[widget.key]
        )

    def _set(self, widget: Widget, value: Any) -> None:
        graph, node = widget.graph, widget.node
        if node["type"] != PRIMITIVE and node["id"] not in graph.inner:
            key = (*graph.instances, node["id"])
            _, _, values = self._values.setdefault(key, (graph, node, {}))
            values[widget.name] = unboxed(value)
            return
        own = self._draft.level(graph.instances).node(node["id"])
        own["widgets_values"] = own.get("widgets_values") or [None]
        own["widgets_values"][self._place(widget)] = unboxed(value)

    def _place(self, widget: Widget) -> int | str:
        """Where a primitive, or the instance of a subgraph, has a value."""
        if widget.node["type"] == PRIMITIVE:
            return 0
        by_name = isinstance(widget.node["widgets_values"], dict)
        inner = widget.graph.inner[widget.node["id"]]
        return widget.name if by_name else inner.shown.index(widget.name)

    def _cut(self, node: NodeSources, name: str) -> None:
        """Take away the links that feed an input."""
        for entry in node.node.get("inputs") or []:
            if entry["name"] == name and entry.get("link") in node.graph.links:
                self._change(node.graph, lambda level, link=entry["link"]: level.drop_link(link))

    def _change(self, graph: Graph, change: Callable[[Level], None]) -> None:
        """Change a graph, and let the instance around it have the values of what it still shows."""
        level = self._draft.level(graph.instances)
        if graph.parent is None or graph.instance is None:
            change(level)
            return
        before = _shown(level)
        change(level)
        after = _shown(level)
        if before != after:
            instance = graph.instance["id"]
            self._change(graph.parent, lambda outer: _keep(outer.node(instance), before, after))


def _shown(level: Level) -> list[str]:
    return Graph(level.content, {}, {}).shown


def _keep(instance: Json, before: list[str], after: list[str]) -> None:
    """Let an instance show other inputs than before."""
    saved = instance.get("widgets_values")
    if isinstance(saved, list) and len(saved) == len(before):
        values = dict(zip(before, saved, strict=True))
        instance["widgets_values"] = [values[name] for name in after]
    for entry in instance.get("inputs") or []:
        if entry["name"] not in after:
            entry.pop("widget", None)
