"""The whole way from a workflow of the page to the prompt that the HTTP API takes."""

from __future__ import annotations

from dataclasses import dataclass

from ..widgets import Json, boxed
from .graph import Graph, InputSource, require_few_parts, subgraph_definitions
from .group_nodes import without_groups

BROKEN = (KeyError, IndexError, TypeError, AttributeError, RecursionError, ValueError)
"""What a damaged workflow raises, which is read by name and place."""


@dataclass(frozen=True)
class NodeSources:
    """A node of the prompt in the workflow, and what feeds its inputs."""

    graph: Graph
    node: Json
    inputs: dict[str, InputSource]


def to_prompt(workflow: Json, object_info: Json) -> Json:
    """The API prompt of a UI workflow: node id -> {class_type, inputs, _meta}."""
    return prompt_and_sources(workflow, object_info)[0]


def prompt_and_sources(workflow: Json, object_info: Json) -> tuple[Json, dict[str, NodeSources]]:
    """The API prompt of a UI workflow, and of each of its nodes where its values come from."""
    prompt: Json = {}
    sources: dict[str, NodeSources] = {}
    for graph, node in root_graph(workflow, object_info).walk():
        path, own = graph.path(node), graph.input_sources(node)
        prompt[path] = {
            "class_type": node["type"],
            "inputs": {name: _given(source) for name, source in own.items()},
            "_meta": {"title": node.get("title") or node["type"]},
        }
        sources[path] = NodeSources(graph, node, own)
    return drop_dangling_links(prompt), sources


def _given(source: InputSource) -> object:
    """What the prompt has for an input."""
    return boxed(source.value) if source.origin is None else [source.origin, source.slot]


def root_graph(workflow: Json, object_info: Json) -> Graph:
    """The workflow with its group nodes opened, to be walked through; CraftError for one that is
    too large."""
    opened = without_groups(workflow, object_info)
    subgraphs = {item["id"]: item for item in subgraph_definitions(opened)}
    _require_small(opened, subgraphs)
    return Graph(opened, subgraphs, object_info)


def _require_small(workflow: Json, subgraphs: dict[str, Json]) -> None:
    """CraftError where subgraphs in subgraphs make more than any page shows."""
    to_count, count = [workflow], 0
    while to_count:
        graph = to_count.pop()
        nodes = graph["nodes"]
        count += 1 + len(nodes) + len(graph.get("links") or [])
        require_few_parts(count)
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
