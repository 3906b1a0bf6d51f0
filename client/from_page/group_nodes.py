"""Group nodes, which pages made before there were subgraphs, opened into subgraphs.

A workflow keeps what its group nodes hold in `extra.groupNodes`; a node of the type `workflow>NAME`
is one of them. Its inputs, widgets and outputs are those inside that no link inside leads to, in
an order and with names that follow from what it holds. Nodes inside get ids like `12:0`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...craft_core.errors import CraftError
from ..widgets import SEEDS, UPLOADS, WIDGETS, Json, kind_of, options_of, widget_places
from .graph import (
    BYPASSED,
    INPUT_NODE,
    MUTED,
    OUTPUT_NODE,
    PRIMITIVE,
    require_few_parts,
    subgraph_definitions,
)

PREFIX, OLD_PREFIX = "workflow>", "workflow/"
REROUTE = "Reroute"


def without_groups(workflow: Json, object_info: Json) -> Json:
    """The workflow with a subgraph in place of each group node; itself where it has none.

    CraftError for a group node inside another and for one whose content the file lacks.
    """
    definitions = subgraph_definitions(workflow)
    graphs = [workflow, *definitions]
    if not any(_group_name(node) for graph in graphs for node in graph["nodes"]):
        return workflow
    groups = (workflow.get("extra") or {}).get("groupNodes") or {}
    made: list[Json] = []
    parts = 0
    sizes: dict[str, int] = {}  # of the groups

    def opened(graph: Json) -> Json:
        nonlocal parts
        nodes = []
        for node in graph["nodes"]:
            name = _group_name(node)
            if name in groups:
                if name not in sizes:
                    sizes[name] = _size(groups[name])
                parts += sizes[name]
                require_few_parts(parts)
                subgraph = _Group(name, groups[name], node, object_info).subgraph(len(made))
                made.append(subgraph)
                node = {**node, "type": subgraph["id"], "widgets_values": None}
            elif name and node.get("mode", 0) not in (MUTED, BYPASSED):
                raise CraftError(
                    f"The group node {name!r} (id {node['id']}) is empty",
                    "A workflow file has the content of its group nodes in extra.groupNodes",
                    "Save the workflow once more in the page that shows what it holds",
                )
            nodes.append(node)
        return {**graph, "nodes": nodes}

    root, *inner = map(opened, graphs)
    return {**root, "definitions": {"subgraphs": [*inner, *made]}}


def _size(group: Json) -> int:
    """How many parts each of its nodes is made of: nodes with their slots and values, links."""
    of_nodes = sum(
        1 + sum(len(node.get(key) or []) for key in ("inputs", "outputs", "widgets_values"))
        for node in group["nodes"]
    )
    return of_nodes + len(group["links"]) + len(group.get("external") or [])


def _group_name(node: Json) -> str:
    """The name of the group that a node is; empty for another node."""
    kind = node["type"]
    found = [one for one in (PREFIX, OLD_PREFIX) if isinstance(kind, str) and kind.startswith(one)]
    return kind[len(found[0]) :] if found else ""


@dataclass
class _Group:
    """One group node: the content of its group, and the node with its links and values."""

    name: str
    content: Json
    instance: Json
    object_info: Json
    _links: list[Json] = field(default_factory=list)
    _inputs: list[Json] = field(default_factory=list)
    _entries: dict[int, list[Json]] = field(default_factory=dict)  # the inputs of each node
    _widgets: Json = field(default_factory=dict)  # schemas in the order of the saved values
    _named: dict[str, int] = field(default_factory=dict)  # how often each name was given

    def __post_init__(self) -> None:
        self._nodes: list[Json] = self.content["nodes"]
        whole = [link for link in self.content["links"] if None not in link[:4]]
        self._to = {(link[2], link[3]): link for link in whole}
        self._from = {(link[0], link[1]): link for link in reversed(whole)}
        self._external = {(one[0], one[1]) for one in self.content.get("external") or []}
        for node in self._nodes:
            if _group_name(node):
                raise CraftError(
                    f"The group node {self.name!r} (id {self.instance['id']}) holds another",
                    "Group nodes are read where they hold none",
                    "Open the file in a newer page, which makes subgraphs of them, and save it",
                )

    def subgraph(self, number: int) -> Json:
        """The definition of a subgraph that does what this node does."""
        converted = [self._add_inputs(index) for index in range(len(self._nodes))]
        for index, names in enumerate(converted):
            for name in names:
                self._add_slot(index, name, {"widget": {"name": name}})
        saved = {"widgets_values": self.instance.get("widgets_values")}
        given = saved["widgets_values"] if isinstance(saved["widgets_values"], list) else []
        places = widget_places(saved, {"input": {"required": self._widgets}}) if given else {}
        values = {name: given[place] for name, place in places.items()}
        nodes = [self._node(index, values) for index in range(len(self._nodes))]
        for slot, (index, own) in enumerate(self._outputs()):
            self._link(index, own, OUTPUT_NODE, slot)
        return {
            "id": f"{PREFIX}{self.name} {number}",
            "inputs": self._inputs,
            "nodes": nodes,
            "links": self._links,
        }

    def _schemas(self, index: int) -> Json:
        """Name -> schema of the inputs that a node inside has for the group."""
        node = self._nodes[index]
        link = self._from.get((index, 0))
        if node["type"] == PRIMITIVE and link is not None:
            return {"value": [link[5], {"control_after_generate": True}]}
        if node["type"] == REROUTE:
            kinds = [one[5] for one in (link, self._to.get((index, 0))) if one is not None]
            kinds += [one[2] for one in self.content.get("external") or [] if one[0] == index]
            kind = str(kinds[0] if kinds else "*")
            return {kind: [kind, {"forceInput": True}]}
        info = self.object_info.get(node["type"], {})
        groups = info.get("input") or {}
        schemas: Json = {}
        for group in ("required", "optional"):
            own = groups.get(group) or {}
            schemas |= own
            if any(options_of(spec).get(flag) for spec in own.values() for flag in UPLOADS):
                schemas["upload"] = ["STRING", {}]  # the button, which saves a text
        return schemas

    def _add_inputs(self, index: int) -> list[str]:
        """Note widgets and slots of a node; returns its widgets that are drawn as slots, which the
        group has behind all others."""
        schemas = self._schemas(index)
        saved = self._nodes[index].get("inputs") or []
        drawn = {one["name"]: place for place, one in enumerate(saved)
                 if (one.get("widget") or {}).get("name") == one["name"]}  # fmt: skip
        widgets = [name for name, spec in schemas.items() if _is_widget(spec)]
        for name in widgets:
            if name not in drawn:
                self._name(index, name)
                seed = {"control_after_generate": True} if name in SEEDS else {}
                options = {**options_of(schemas[name]), **seed}
                plain = {key: value for key, value in options.items() if key not in UPLOADS}
                self._widgets[f"{index} {name}"] = [schemas[name][0], plain]
        self._entries[index] = []
        for name in schemas:
            if name not in widgets:
                self._add_slot(index, name, {"type": schemas[name][0]})
        return sorted(drawn.keys() & set(widgets), key=lambda name: drawn[name])

    def _add_slot(self, index: int, name: str, more: Json) -> None:
        """One more slot of a node, fed by the link inside that leads to it, else by the group."""
        entries = self._entries[index]
        slot, known = len(entries), self._to.get((index, len(entries)))
        entry = {"name": name, "type": "*", "link": None, **more}
        entries.append(entry)
        if known is not None:
            entry["link"] = self._link(known[0], known[1], index, slot)
            return
        shown = self._name(index, name)
        if "widget" in more or self._set_by_hand(index, "input", name).get("visible") is not False:
            entry["link"] = self._link(INPUT_NODE, len(self._inputs), index, slot)
            self._inputs.append({"name": shown, "linkIds": [entry["link"]]})

    def _name(self, index: int, name: str) -> str:
        """What the page calls an input of the group."""
        node = self._nodes[index]
        labels = (one.get("label") for one in node.get("inputs") or [] if one.get("name") == name)
        by_hand = self._set_by_hand(index, "input", name).get("name")
        key = shown = by_hand or next(labels, None) or name
        if shown in self._named or (node["type"] == PRIMITIVE and node.get("title")):
            before = f"{node.get('title') or node['type']} "
            key = shown = f"{before}{name}"
            if shown in self._named:
                shown = f"{before}{self._named[shown]} {name}"
        self._named[key] = self._named.get(key, 1) + 1
        return shown

    def _set_by_hand(self, index: int, group: str, name: Any) -> Json:
        """What a user has set for an input or an output under Manage Group Nodes."""
        config = (self.content.get("config") or {}).get(str(index)) or {}
        return (config.get(group) or {}).get(str(name)) or {}

    def _outputs(self) -> Iterator[tuple[int, int]]:
        """(node, slot) of every output that the group has."""
        for index, node in enumerate(self._nodes):
            known = self.object_info.get(node["type"], {}).get("output")
            own = node.get("outputs") or []
            for slot in range(len(own if known is None else known)):
                used = (index, slot) in self._from and (index, slot) not in self._external
                if self._set_by_hand(index, "output", slot).get("visible", not used):
                    yield index, slot

    def _link(self, origin: int, slot: int, target: int, into: int) -> int:
        number = len(self._links) + 1
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        self._links.append(dict(zip(names, (number, origin, slot, target, into), strict=True)))
        return number

    def _node(self, index: int, values: Json) -> Json:
        """A node inside, with the values that the group's widgets have for it."""
        node = self._nodes[index]
        kept = node.get("widgets_values")
        own = kept.copy() if isinstance(kept, list | dict) else []
        if node["type"] == PRIMITIVE:
            places: dict[str, Any] = {"value": 0}
            own = own or [None]
        else:
            info = self.object_info.get(node["type"], {})
            places = widget_places({**node, "inputs": self._entries[index]}, info)
        for name, place in places.items():
            if f"{index} {name}" in values:
                own[place] = values[f"{index} {name}"]
        return {**node, "id": index, "inputs": self._entries[index], "widgets_values": own}


def _is_widget(spec: Any) -> bool:
    return kind_of(spec) in WIDGETS and not options_of(spec).get("forceInput")
