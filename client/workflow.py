"""Turn a workflow as the page saves it (UI format) into the prompt that the HTTP API takes.

Follows what the page does when Run is pressed: widget values by position, control-after-generate
values left out, muted nodes dropped, bypassed nodes passed through by type, reroutes and
primitives dissolved, notes left out, subgraphs flattened to ids like `12:3`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..craft_core.errors import CraftError
from .answers import NoJson, parse_json
from .widgets import DYNAMIC_COMBO, Json, all_inputs, kind_of, widget_places, widget_values

MUTED, BYPASSED = 2, 4
INPUT_NODE, OUTPUT_NODE = -10, -20  # the two ends of a subgraph
PASS_THROUGH = {"Reroute"}
NOTES = {"Note", "MarkdownNote"}
PRIMITIVE = "PrimitiveNode"
MOST_BYTES = 1 << 24  # of a workflow file
MOST_PARTS = 100_000  # nodes and links, with those of subgraphs in each place where they stand
_BROKEN = (KeyError, IndexError, TypeError, AttributeError, RecursionError, ValueError)


@dataclass(frozen=True)
class InputSource:
    """What feeds an input: another node's output, or (origin None) a plain value."""

    origin: str | None
    slot: int = 0
    value: Any = None


def read_workflow(path: Path) -> Json:
    """A workflow file in UI format; CraftError when it is something else."""
    workflow = _read(path)
    if not _is_of_page(workflow):
        raise CraftError(
            f"{path} is not a workflow as ComfyUI's page saves it (no nodes)",
            "It is the JSON file of the page's File > Save or Export",
            "Save the workflow in the page and give that file",
        )
    return workflow


def read_prompt(path: Path, object_info: Json) -> Json:
    """The API prompt of a workflow file in either format, for a server with these nodes."""
    return read_both(path, object_info)[0]


def read_both(path: Path, object_info: Json) -> tuple[Json, Json | None]:
    """(the API prompt of a workflow file, the workflow itself where it is the page's own)."""
    content = _read(path)
    return _prompt_of(path, content, object_info), content if _is_of_page(content) else None


def showing(workflow: Json, base: Json, prompt: Json, object_info: Json) -> Json | None:
    """The page's workflow with a prompt's values in its widgets, so that a picture restores it.

    base: the workflow's own prompt. None where a value has no widget of its own: inside a subgraph,
    in place of a link, or as an entry of a list that brings other widgets.
    """
    changed = {
        (node, name): value
        for node, one in prompt.items()
        for name, value in one["inputs"].items()
        if name not in base[node]["inputs"] or base[node]["inputs"][name] != value
    }
    shown = {str(node["id"]): dict(node) for node in workflow["nodes"]}
    for (node_id, name), value in changed.items():
        node = shown.get(node_id)
        if node is None or isinstance(base[node_id]["inputs"].get(name), list):
            return None
        info = object_info[node["type"]]
        specs = dict(all_inputs(info))
        places = widget_places(node, info)
        saved = node.get("widgets_values")
        if not isinstance(saved, list | dict) or name not in places:
            return None
        if name in specs and kind_of(specs[name]) == DYNAMIC_COMBO:
            return None
        node["widgets_values"] = saved.copy()
        node["widgets_values"][places[name]] = _unboxed(value)
    return {**workflow, "nodes": list(shown.values())}


def _prompt_of(path: Path, content: Any, object_info: Json) -> Json:
    if _is_of_page(content):
        try:
            return to_prompt(content, object_info)
        except CraftError:
            raise
        except _BROKEN as error:  # what is read by name and place is not there, or not of its kind
            raise CraftError(
                f"{path} is a damaged workflow ({type(error).__name__}: {error})",
                "It is the JSON file of the page's File > Save or Export",
                "Open it in the page, which mends what it can, and save it again",
            ) from error
    if not _is_prompt(content):
        raise CraftError(
            f"{path} is no workflow",
            "It is a JSON file of the page's File > Save, Export or Export (API)",
            "Save the workflow in the page and give that file",
        )
    for node_id, node in content.items():
        require_known(node["class_type"], node_id, object_info)
    return content


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise NoJson(f"it has more than {MOST_BYTES} bytes")
        return parse_json(content)
    except (OSError, ValueError) as error:  # ValueError also for a path with a NUL
        missing = isinstance(error, FileNotFoundError)
        wrong = f"{path} is not a JSON file ({error})"
        raise CraftError(
            f"There is no workflow file {path}" if missing else wrong,
            "A workflow is a JSON file that ComfyUI's page has saved",
            "Correct the path" if missing else "Save the workflow again in the page",
        ) from error


def _is_of_page(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("nodes"), list)


def _is_prompt(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(
            isinstance(node, dict)
            and isinstance(node.get("class_type"), str)
            and isinstance(node.get("inputs"), dict)
            for node in content.values()
        )
    )


def require_known(kind: str, node_id: str, object_info: Json) -> None:
    """CraftError for a node type that the server does not have."""
    if kind not in object_info:
        raise CraftError(
            f"The workflow needs the node {kind!r} (id {node_id})",
            "This ComfyUI does not have it",
            "Install the pack that brings it",
        )


def to_prompt(workflow: Json, object_info: Json) -> Json:
    """The API prompt of a UI workflow: node id -> {class_type, inputs, _meta}."""
    subgraphs = {item["id"]: item for item in _subgraph_definitions(workflow)}
    _require_small(workflow, subgraphs)
    root = Graph(workflow, subgraphs, object_info)
    prompt: Json = {}
    for graph, node in root.walk():
        prompt[graph.path(node)] = {
            "class_type": node["type"],
            "inputs": graph.prompt_inputs(node),
            "_meta": {"title": node.get("title") or node["type"]},
        }
    return drop_dangling_links(prompt)


def _subgraph_definitions(workflow: Json) -> list[Json]:
    return (workflow.get("definitions") or {}).get("subgraphs") or []


def _require_small(workflow: Json, subgraphs: dict[str, Json]) -> None:
    """CraftError where subgraphs in subgraphs make more than any page shows."""
    to_count, count = [workflow], 0
    while to_count:
        graph = to_count.pop()
        nodes = graph["nodes"]
        count += 1 + len(nodes) + len(graph.get("links") or [])
        if count > MOST_PARTS:
            raise CraftError(
                f"The workflow has more than {MOST_PARTS} nodes and links, subgraphs included",
                f"Up to {MOST_PARTS} are read",
                "Look for a subgraph that holds itself, or make the workflow smaller",
            )
        to_count += [subgraphs[node["type"]] for node in nodes if node["type"] in subgraphs]


def drop_dangling_links(prompt: Json) -> Json:
    """Leave out inputs that come from nodes that are not in the prompt (muted ones)."""
    for node in prompt.values():
        node["inputs"] = {
            name: value
            for name, value in node["inputs"].items()
            if not (isinstance(value, list) and value[0] not in prompt)
        }
    return prompt


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
        self.nodes: dict[Any, Json] = {node["id"]: node for node in content["nodes"]}
        self.links = {link["id"]: link for link in map(_link, content.get("links") or [])}
        self.inner = {
            node["id"]: Graph(subgraphs[node["type"]], subgraphs, object_info, self, node)
            for node in content["nodes"]
            if node["type"] in subgraphs
        }

    def path(self, node: Json) -> str:
        """The node's id, after the ids of the subgraph instances around it."""
        own = str(node["id"])
        if self.parent is None or self.instance is None:
            return own
        return f"{self.parent.path(self.instance)}:{own}"

    def walk(self) -> Iterator[tuple[Graph, Json]]:
        """Every node that will run, with the graph it is in."""
        for node in self.content["nodes"]:
            if node.get("mode", 0) in (MUTED, BYPASSED):
                continue
            if node["id"] in self.inner:
                yield from self.inner[node["id"]].walk()
            elif node["type"] not in PASS_THROUGH | NOTES | {PRIMITIVE}:
                self._require_known(node)
                yield self, node

    def _require_known(self, node: Json) -> None:
        require_known(node["type"], self.path(node), self.object_info)

    def prompt_inputs(self, node: Json) -> Json:
        """The inputs of one node for the API: widget values, then links over them."""
        values = widget_values(node, self.object_info[node["type"]])
        inputs = {name: boxed(value) for name, value in values.items()}
        for index, entry in enumerate(node.get("inputs") or []):
            source = self.resolve_input(node, index, entry.get("type", "*"))
            if source is None:
                continue
            linked = source.origin is not None
            inputs[entry["name"]] = [source.origin, source.slot] if linked else boxed(source.value)
        return inputs

    def resolve_input(self, node: Json, index: int, kind: str) -> InputSource | None:
        """What feeds input `index` of a node, traced back through what only passes values on."""
        link = self.links.get(node["inputs"][index].get("link"))
        if link is None:
            return None
        if link["origin_id"] != INPUT_NODE:
            return self.resolve_output(self.nodes[link["origin_id"]], link["origin_slot"], kind)
        if self.parent is None or self.instance is None:
            return None  # the input of a subgraph, outside of any
        name = self.content["inputs"][link["origin_slot"]]["name"]
        return self.parent.instance_input(self.instance, name, kind)

    def instance_input(self, instance: Json, name: str, kind: str) -> InputSource | None:
        """What a subgraph instance is given for one of its inputs: a link or a widget value."""
        for index, entry in enumerate(instance.get("inputs") or []):
            if entry["name"] == name and entry.get("link") is not None:
                return self.resolve_input(instance, index, kind)
        return self.inner[instance["id"]].shown_value(name)

    def shown_value(self, name: str) -> InputSource | None:
        """The value of the widget that this subgraph's instance shows for one of its inputs.

        Where the instance has saved none, the value of the inner widget that it shows.
        """
        shown = self._shown
        values = self.instance.get("widgets_values") if self.instance else None
        if isinstance(values, list):
            values = dict(zip(shown, values, strict=True)) if len(shown) == len(values) else {}
        if values and name in values:
            return InputSource(None, value=values[name])
        return self._own_value(*shown[name]) if name in shown else None

    @cached_property
    def _shown(self) -> dict[str, tuple[Json, Json]]:
        """The inputs of this subgraph that its instance shows as widgets: what they lead to."""
        found = {entry["name"]: self._shown_widget(entry) for entry in self.content["inputs"]}
        return {name: widget for name, widget in found.items() if widget is not None}

    def _shown_widget(self, subgraph_input: Json) -> tuple[Json, Json] | None:
        """The first (node, input entry) that an input of this subgraph leads to as a widget."""
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
        values = widget_values(node, self.object_info[node["type"]])
        name = entry["widget"]["name"]
        return InputSource(None, value=values[name]) if name in values else None

    def resolve_output(self, node: Json, slot: int, kind: str) -> InputSource | None:
        """Where output `slot` of a node really comes from, for an input of type `kind`."""
        mode, name = node.get("mode", 0), node["type"]
        if mode == MUTED:
            return None
        if mode == BYPASSED:
            index = _bypass_input(node, slot, kind)
            return None if index is None else self.resolve_input(node, index, kind)
        if node["id"] in self.inner:
            return self.inner[node["id"]].resolve_exit(slot, kind)
        if name in PASS_THROUGH:
            return self.resolve_input(node, 0, kind) if node.get("inputs") else None
        if name == PRIMITIVE:
            values = node.get("widgets_values") or [None]
            return InputSource(None, value=values[0])
        return None if name in NOTES else InputSource(self.path(node), slot)

    def resolve_exit(self, slot: int, kind: str) -> InputSource | None:
        """What a subgraph hands out of its output `slot`."""
        link = self._exits.get(slot)
        if link is None:
            return None
        if link["origin_id"] != INPUT_NODE:
            return self.resolve_output(self.nodes[link["origin_id"]], link["origin_slot"], kind)
        if self.parent is None or self.instance is None:
            return None
        name = self.content["inputs"][link["origin_slot"]]["name"]
        return self.parent.instance_input(self.instance, name, kind)

    @cached_property
    def _exits(self) -> dict[Any, Json]:
        """Output slot of this subgraph -> the link that ends there."""
        links = reversed(self.links.values())  # the first of several counts
        return {one["target_slot"]: one for one in links if one["target_id"] == OUTPUT_NODE}


def _link(link: Any) -> Json:
    """A link as a mapping (the root saves lists, subgraphs save mappings)."""
    if isinstance(link, dict):
        return link
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return dict(zip(names, link, strict=False))


def boxed(value: Any) -> Any:
    """Lists are boxed: a bare one would be read as a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _unboxed(value: Any) -> Any:
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


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
