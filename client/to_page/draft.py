"""A copy of a workflow that is written to: what is not changed is shared with the workflow.

A subgraph's definition may stand in several places. What is written in one place is written to a
copy of its own; at the end equal copies are one definition again, and where no place is left that
has the definition as it was, a copy takes its id.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from ..from_page.graph import INPUT_NODE, as_link, subgraph_definitions
from ..widgets import Json


class NotShown(Exception):
    """The workflow has no place for a value."""


class Level:
    """The root, or a subgraph in one place: a copy, with copies of the nodes that are asked for."""

    def __init__(self, content: Json) -> None:
        self.content = {**content, "nodes": list(content["nodes"])}
        self.inside: dict[str, Level] = {}  # the subgraphs that are written to, by their instances
        self._copied: set[str] = set()
        self._places: dict[str, list[int]] = defaultdict(list)
        for place, node in enumerate(content["nodes"]):
            self._places[str(node["id"])].append(place)

    def node(self, node_id: Any) -> Json:
        """The node, to be written to; NotShown where not exactly one has the id."""
        place = self._place(str(node_id))
        nodes = self.content["nodes"]
        if str(node_id) not in self._copied:
            nodes[place] = copy.deepcopy(nodes[place])
            self._copied.add(str(node_id))
        return nodes[place]

    def type_of(self, node_id: Any) -> Any:
        """The node's type."""
        return self.content["nodes"][self._place(str(node_id))]["type"]

    def _place(self, node_id: str) -> int:
        found = self._places.get(node_id, [])
        if len(found) != 1:
            raise NotShown(f"{len(found)} nodes have the id {node_id}")
        return found[0]

    def drop_link(self, link_id: Any) -> None:
        """Take a link out of both its ends and out of the list."""
        links = {as_link(link)["id"]: link for link in self.content.get("links") or []}
        if link_id not in links:
            return
        link = as_link(links.pop(link_id))
        self.content["links"] = list(links.values())
        if link["origin_id"] == INPUT_NODE:
            ends = list(self.content["inputs"])
            end = ends[link["origin_slot"]]
            kept = [one for one in end.get("linkIds") or [] if one != link_id]
            ends[link["origin_slot"]] = {**end, "linkIds": kept}
            self.content["inputs"] = ends
        else:
            for output in self.node(link["origin_id"]).get("outputs") or []:
                output["links"] = [one for one in output.get("links") or [] if one != link_id]
        for entry in self.node(link["target_id"]).get("inputs") or []:
            if entry.get("link") == link_id:
                entry["link"] = None

    def with_types(self, types: Mapping[str, str]) -> Json:
        """The content with other types at the instances that have been written to."""
        nodes = list(self.content["nodes"])
        for node_id, kind in types.items():
            place = self._place(node_id)
            nodes[place] = {**nodes[place], "type": kind}
        return {**self.content, "nodes": nodes}


class Draft:
    """The copy of a workflow, and of the definitions of its subgraphs."""

    def __init__(self, workflow: Json) -> None:
        self._workflow = workflow
        self._definitions = {one["id"]: one for one in subgraph_definitions(workflow)}
        self._root = Level(workflow)

    def level(self, instances: Iterable[Any]) -> Level:
        """The subgraph inside these instances, from the root on, to be written to."""
        level = self._root
        for instance in instances:
            if str(instance) not in level.inside:
                kind = level.type_of(instance)
                if kind not in self._definitions:
                    raise NotShown("a group node of an older page")
                level.inside[str(instance)] = Level(self._definitions[kind])
            level = level.inside[str(instance)]
        return level

    def workflow(self) -> Json:
        """The workflow with what has been written so far."""
        copies: dict[str, Json] = {}  # by the ids that they have for now
        root = self._with_copies(self._root, copies)
        if not copies:
            return root
        names = self._free_ids(root, copies)
        made = {
            names.get(name, name): {**_renamed(one, names), "id": names.get(name, name)}
            for name, one in copies.items()
        }
        kept = [made.pop(name, one) for name, one in self._definitions.items()]
        more = self._workflow["definitions"]
        definitions = {**more, "subgraphs": [*kept, *made.values()]}
        return {**_renamed(root, names), "definitions": definitions}

    def _free_ids(self, root: Json, copies: Mapping[str, Json]) -> dict[str, str]:
        """Copy -> the id of its definition, which no place has any more."""
        before = _types(self._workflow, self._definitions)
        free = before - _types(root, {**self._definitions, **copies})
        names: dict[str, str] = {}
        for name, one in copies.items():
            if one["id"] in free:
                free.remove(one["id"])
                names[name] = one["id"]
        return names

    def _with_copies(self, level: Level, copies: dict[str, Json]) -> Json:
        """The content of a level; copies of definitions inside it, with their old ids, go into
        `copies`."""
        types = {}
        for instance, inner in level.inside.items():
            content = self._with_copies(inner, copies)
            if content == self._definitions[content["id"]]:
                continue
            name = self._new_id(content)
            types[instance] = name
            copies[name] = content
        return level.with_types(types)

    def _new_id(self, content: Json) -> str:
        """An id that follows from the content, so that equal copies have equal ones."""
        text = json.dumps(content, sort_keys=True)
        while (name := str(uuid.uuid5(uuid.NAMESPACE_OID, text))) in self._definitions:
            text += " "
        return name


def _types(workflow: Json, definitions: Mapping[str, Json]) -> set[str]:
    """The definitions that the workflow has in some place."""
    found: set[str] = set()
    to_see = [workflow]
    while to_see:
        kinds = {node["type"] for node in to_see.pop()["nodes"] if node["type"] in definitions}
        to_see += [definitions[kind] for kind in kinds - found]
        found |= kinds
    return found


def _renamed(graph: Json, names: Mapping[str, str]) -> Json:
    nodes = [
        {**node, "type": names[node["type"]]} if node["type"] in names else node
        for node in graph["nodes"]
    ]
    return {**graph, "nodes": nodes}
