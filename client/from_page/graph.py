"""One level of a workflow as the page saves it: which nodes run, and what feeds their inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ...craft_core.errors import CraftError
from ..widgets import Json, all_inputs, kind_of, options_of, unboxed, widget_values

MUTED, BYPASSED = 2, 4
INPUT_NODE, OUTPUT_NODE = -10, -20  # the two ends of a subgraph
MOST_PARTS = 100_000  # nodes and links, with those of subgraphs in each place where they stand
MOST_NESTED_GRAPHS = 100  # subgraphs inside one another
MOST_PASSED = 200  # nodes on a way that pass one value on
MOST_EFFORT = 500_000  # entries looked at and pieces of text written to make a prompt
_PIECE = 64  # characters
PRIMITIVE = "PrimitiveNode"
SETTER, GETTER = "SetNode", "GetNode"  # of ComfyUI-KJNodes: a link without its line
PASS_THROUGH = {"Reroute", "Reroute (rgthree)", SETTER}
SILENT = {  # they change the page alone
    "Note",
    "MarkdownNote",
    "Bookmark (rgthree)",
    "Fast Actions Button (rgthree)",
    "Fast Bypasser (rgthree)",
    "Fast Groups Bypasser (rgthree)",
    "Fast Groups Muter (rgthree)",
    "Fast Muter (rgthree)",
    "Label (rgthree)",
    "Mute / Bypass Relay (rgthree)",
    "Mute / Bypass Repeater (rgthree)",
    "Node Collector (rgthree)",
    "Random Unmuter (rgthree)",
}
LINKERS = {  # of cg-use-everywhere: the page makes links of them when Run is pressed
    "Anything Everywhere",
    "Anything Everywhere3",
    "Anything Everywhere?",
    "Prompts Everywhere",
    "Seed Everywhere",
}
VIRTUAL = PASS_THROUGH | SILENT | {PRIMITIVE, GETTER}  # no part of a prompt


@dataclass(frozen=True, eq=False)
class Widget:
    """A widget that has a value: a node's own, a primitive's, or one that the instance of a
    subgraph shows and has saved."""

    graph: Graph
    node: Json
    name: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells widgets apart: the instances around the node, its id, the name."""
        return (*self.graph.instances, self.node["id"], self.name)


@dataclass(frozen=True)
class InputSource:
    """What feeds an input: another node's output, or (origin None) the value of a widget.

    of_subgraph: whether it is the value of a widget that the instance of a subgraph shows.
    """

    origin: str | None
    slot: int = 0
    value: Any = None
    widget: Widget | None = None
    of_subgraph: bool = False


def subgraph_definitions(workflow: Json) -> list[Json]:
    """The subgraphs of a workflow, each once."""
    return (workflow.get("definitions") or {}).get("subgraphs") or []


def require_few_parts(count: int) -> None:
    """CraftError for more nodes and links than are read."""
    if count > MOST_PARTS:
        raise CraftError(
            f"The workflow has more than {MOST_PARTS} nodes and links, subgraphs included",
            f"Up to {MOST_PARTS} are read",
            "Look for a subgraph that holds itself, or make the workflow smaller",
        )


def require_known(kind: str, node_id: str, object_info: Json) -> None:
    """CraftError for a node type that the server does not have."""
    if kind not in object_info:
        raise CraftError(
            f"The workflow needs the node {kind!r} (id {node_id})",
            "This ComfyUI does not have it: its pack is missing, or it exists in the page alone",
            "Install the pack that brings it; if the page has it, give the file of the page's "
            "File > Export (API)",
        )


class Effort:
    """What making a prompt has cost so far: a file of a few bytes may ask for any amount, by what
    it has in many places and leads through many nodes."""

    def __init__(self) -> None:
        self._left = MOST_EFFORT
        self._passed = 0
        self._lengths: dict[int, tuple[Any, int]] = {}  # of lists and tables, by their id

    def spend(self, entries: int, text: str = "") -> None:
        """CraftError where a workflow asks for more than any page shows."""
        self._left -= entries + len(text) // _PIECE
        if self._left < 0:
            raise CraftError(
                "The workflow's prompt is too long to make",
                "The same links, or the same long text, are in too many places of it",
                "Make the workflow smaller, or give the file of the page's File > Export (API)",
            )

    @contextmanager
    def passing(self) -> Iterator[None]:
        """One node further back on the way of a value; CraftError where the way is too long."""
        if self._passed == MOST_PASSED:
            raise CraftError(
                f"A value of the workflow comes through more than {MOST_PASSED} reroutes, bypassed "
                "nodes and subgraphs",
                f"Ways of up to {MOST_PASSED} are followed",
                "Link the two ends, or give the file of the page's File > Export (API)",
            )
        self._passed += 1
        try:
            yield
        finally:
            self._passed -= 1

    def spend_value(self, value: Any) -> None:
        """What it costs to send a value."""
        value = unboxed(value)
        if isinstance(value, list | dict):
            if id(value) not in self._lengths:
                self._lengths[id(value)] = value, len(json.dumps(value)) // _PIECE
            self.spend(self._lengths[id(value)][1])
        self.spend(1, value if isinstance(value, str) else "")


class Graph:
    """One level of a workflow: the root, or one instance of a subgraph inside `parent`."""

    def __init__(
        self,
        content: Json,
        subgraphs: dict[str, Json],
        object_info: Json,
        parent: Graph | None = None,
        instance: Json | None = None,
    ):
        self.content, self.subgraphs, self.object_info = content, subgraphs, object_info
        self.parent, self.instance = parent, instance
        self.effort: Effort = parent.effort if parent else Effort()
        self.depth: int = parent.depth + 1 if parent else 0
        if self.depth > MOST_NESTED_GRAPHS:
            raise CraftError(
                f"The workflow has more than {MOST_NESTED_GRAPHS} subgraphs inside one another",
                f"Up to {MOST_NESTED_GRAPHS} are read",
                "Unpack some of them in the page",
            )
        self.nodes: dict[Any, Json] = {node["id"]: node for node in content["nodes"]}
        self.links = {link["id"]: link for link in map(as_link, content.get("links") or [])}
        self.inner = {
            node["id"]: Graph(subgraphs[node["type"]], subgraphs, object_info, self, node)
            for node in content["nodes"]
            if node["type"] in subgraphs
        }

    def path(self, node: Json) -> str:
        """The node's id, after the ids of the subgraph instances around it."""
        path = f"{self._prefix}{node['id']}"
        self.effort.spend(1, path)
        return path

    @cached_property
    def _prefix(self) -> str:
        if self.parent is None or self.instance is None:
            return ""
        return f"{self.parent.path(self.instance)}:"

    @cached_property
    def instances(self) -> tuple[Any, ...]:
        """The ids of the subgraph instances around this graph, from the root on."""
        if self.parent is None or self.instance is None:
            return ()
        return (*self.parent.instances, self.instance["id"])

    def walk(self) -> Iterator[tuple[Graph, Json]]:
        """Every node that will run, with the graph it is in."""
        for node in self.content["nodes"]:
            if node.get("mode", 0) in (MUTED, BYPASSED):
                continue
            if node["id"] in self.inner:
                yield from self.inner[node["id"]].walk()
            elif node["type"] not in VIRTUAL:
                self._require_known(node)
                yield self, node

    def _require_known(self, node: Json) -> None:
        require_known(node["type"], self.path(node), self.object_info)
        if node["type"] in LINKERS:
            raise CraftError(
                f"{node['type']!r} (id {self.path(node)}) makes links when Run is pressed",
                "The workflow's file does not have them",
                "Give the file of the page's File > Export (API), which has them",
            )

    def input_sources(self, node: Json) -> dict[str, InputSource]:
        """What feeds the inputs of one node for the API: its widgets, then links over them."""
        self.effort.spend(len(node.get("inputs") or []))
        values = widget_values(node, self.object_info[node["type"]])
        sources = {name: self._value(node, name, value) for name, value in values.items()}
        for index, entry in enumerate(node.get("inputs") or []):
            source = self.resolve_input(node, index, entry.get("type", "*"))
            if source is None:
                continue
            if not isinstance(entry["name"], str):
                raise TypeError(f"an input of node {self.path(node)} has no text as its name")
            sources[entry["name"]] = source
        for source in sources.values():
            self.effort.spend_value(source.value)
        return sources

    def _value(self, node: Json, name: str, value: Any) -> InputSource:
        return InputSource(None, value=value, widget=Widget(self, node, name))

    def dynamic_texts(self, node: Json) -> set[str]:
        """The inputs in whose texts the page draws at each run, but for those that the instance of
        a subgraph shows."""
        self.effort.spend(len(node.get("inputs") or []))
        texts = {
            name
            for name, spec in all_inputs(self.object_info[node["type"]])
            if kind_of(spec) == "STRING" and options_of(spec).get("dynamicPrompts") is True
        }
        for index, entry in enumerate(node.get("inputs") or []):
            if entry["name"] in texts:
                source = self.resolve_input(node, index, entry.get("type", "*"))
                if source is not None and source.of_subgraph:
                    texts.remove(entry["name"])
        return texts

    def resolve_input(self, node: Json, index: int, kind: str) -> InputSource | None:
        """What feeds input `index` of a node, traced back through what only passes values on."""
        self.effort.spend(1)
        link = self.links.get(node["inputs"][index].get("link"))
        if link is None:
            return None
        with self.effort.passing():
            if link["origin_id"] != INPUT_NODE:
                return self._resolve_origin(link, kind)
            if self.parent is None or self.instance is None:
                return None  # the input of a subgraph, outside of any
            name = self.content["inputs"][link["origin_slot"]]["name"]
            return self.parent.instance_input(self.instance, name, kind)

    def _resolve_origin(self, link: Json, kind: str) -> InputSource | None:
        """Where a link comes from; None, as the page has it, where that node is gone."""
        origin = self.nodes.get(link["origin_id"])
        return None if origin is None else self.resolve_output(origin, link["origin_slot"], kind)

    def instance_input(self, instance: Json, name: str, kind: str) -> InputSource | None:
        """What a subgraph instance is given for one of its inputs: a link or a widget value."""
        self.effort.spend(len(instance.get("inputs") or []))
        for index, entry in enumerate(instance.get("inputs") or []):
            if entry["name"] == name and entry.get("link") is not None:
                return self.resolve_input(instance, index, kind)
        shown = self.inner[instance["id"]].shown_value(name)
        return None if shown is None else replace(shown, of_subgraph=True)

    def shown_value(self, name: str) -> InputSource | None:
        """The value of the widget that this subgraph's instance shows for one of its inputs.

        Where the instance has saved none, the value of the inner widget that it shows.
        """
        shown = self._shown
        self.effort.spend(len(shown))
        values = self.instance.get("widgets_values") if self.instance else None
        if isinstance(values, list):
            values = dict(zip(shown, values, strict=True)) if len(shown) == len(values) else {}
        if values and name in values and self.parent and self.instance:
            return self.parent._value(self.instance, name, values[name])
        return self._own_value(*shown[name]) if name in shown else None

    @property
    def shown(self) -> list[str]:
        """The inputs of this subgraph that its instance shows as widgets, in their order."""
        return list(self._shown)

    @cached_property
    def _shown(self) -> dict[str, tuple[Json, Json]]:
        """The inputs of this subgraph that its instance shows as widgets: what they lead to."""
        self.effort.spend(len(self.content["inputs"]))
        found = {entry["name"]: self._shown_widget(entry) for entry in self.content["inputs"]}
        return {name: widget for name, widget in found.items() if widget is not None}

    def _shown_widget(self, subgraph_input: Json) -> tuple[Json, Json] | None:
        """The first (node, input entry) that an input of this subgraph leads to as a widget."""
        self.effort.spend(len(subgraph_input.get("linkIds") or []))
        for link_id in subgraph_input.get("linkIds") or []:
            link = self.links.get(link_id)
            target = self.nodes.get(link["target_id"]) if link else None
            if link is not None and target is not None:
                entry = target["inputs"][link["target_slot"]]
                if entry.get("widget"):
                    return target, entry
        return None

    def _own_value(self, node: Json, entry: Json) -> InputSource | None:
        """The value of a node's widget; for a subgraph instance, of the inner widget it shows."""
        if node["id"] in self.inner:
            return self.inner[node["id"]].shown_value(entry["name"])
        self._require_known(node)
        self.effort.spend(len(node.get("inputs") or []))
        values = widget_values(node, self.object_info[node["type"]])
        name = entry["widget"]["name"]
        return self._value(node, name, values[name]) if name in values else None

    def resolve_output(self, node: Json, slot: int, kind: str) -> InputSource | None:
        """Where output `slot` of a node really comes from, for an input of type `kind`."""
        mode, name = node.get("mode", 0), node["type"]
        if mode == MUTED:
            return None
        if mode == BYPASSED:
            for entry in node.get("inputs") or []:
                self.effort.spend(1, f"{entry.get('type')}{kind}")
            index = _bypass_input(node, slot, kind)
            return None if index is None else self.resolve_input(node, index, kind)
        if node["id"] in self.inner:
            return self.inner[node["id"]].resolve_exit(slot, kind)
        if name in PASS_THROUGH:
            return self.resolve_input(node, 0, kind) if node.get("inputs") else None
        if name == GETTER:
            return self._resolve_getter(node, kind)
        if name == PRIMITIVE:
            return self._value(node, "", _first_value(node))
        return None if name in SILENT else InputSource(self.path(node), slot)

    def _resolve_getter(self, node: Json, kind: str) -> InputSource | None:
        """What feeds the SetNode of the same name, in this graph or the nearest one around it."""
        name, graph = _first_value(node), self
        while (setter := graph._setters.get(name)) is None:
            if graph.parent is None:
                raise CraftError(
                    f"GetNode {name!r} (id {self.path(node)}) gets nothing",
                    "It needs a SetNode of the same name, in its graph or one around it",
                    "Name the SetNode so, or choose another in the GetNode",
                )
            graph = graph.parent
            self.effort.spend(1)
        return graph.resolve_input(setter, 0, kind) if setter.get("inputs") else None

    @cached_property
    def _setters(self) -> dict[Any, Json]:
        """Name -> the first SetNode of this graph that has it."""
        setters = [node for node in self.content["nodes"] if node["type"] == SETTER]
        return {_first_value(node): node for node in reversed(setters)}

    def resolve_exit(self, slot: int, kind: str) -> InputSource | None:
        """What a subgraph hands out of its output `slot`."""
        link = self._exits.get(slot)
        if link is None:
            return None
        if link["origin_id"] != INPUT_NODE:
            return self._resolve_origin(link, kind)
        if self.parent is None or self.instance is None:
            return None
        name = self.content["inputs"][link["origin_slot"]]["name"]
        return self.parent.instance_input(self.instance, name, kind)

    @cached_property
    def _exits(self) -> dict[Any, Json]:
        """Output slot of this subgraph -> the link that ends there."""
        links = reversed(self.links.values())  # the first of several counts
        return {one["target_slot"]: one for one in links if one["target_id"] == OUTPUT_NODE}


def _first_value(node: Json) -> Any:
    return (node.get("widgets_values") or [None])[0]


def as_link(link: Any) -> Json:
    """A link as a mapping (the root saves lists, subgraphs save mappings)."""
    if isinstance(link, dict):
        return link
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return dict(zip(names, link, strict=False))


def _fits(given: Any, wanted: Any) -> bool:
    """Whether two slot types connect (`*` with all; a comma list with each of its types)."""
    if given in ("*", "", 0) or wanted in ("*", "", 0):
        return True
    left, right = str(given).lower().split(","), str(wanted).lower().split(",")
    return not set(left).isdisjoint(right)


def _bypass_input(node: Json, slot: int, kind: str) -> int | None:
    """The input that stands in for output `slot` of a bypassed node, None without one."""
    inputs = node.get("inputs") or []
    types = [entry.get("type", "*") for entry in inputs]
    given = node["outputs"][slot].get("type", "*")
    if kind in ("*", ""):
        return min(slot, len(types) - 1) if slot < len(types) else (0 if types else None)
    if slot < len(types) and _fits(types[slot], given) and _fits(types[slot], kind):
        return slot
    if kind in types:
        return types.index(kind)
    for index, candidate in enumerate(types):
        if _fits(candidate, given) and _fits(candidate, kind):
            return index
    return None
