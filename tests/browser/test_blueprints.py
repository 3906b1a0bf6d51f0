"""The shipped subgraph blueprints in the page: found, added, kept, and run on the small world."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launcher.paths import ROOT

FILES = sorted((ROOT / "subgraphs").glob("*.json"))
FUSION, COMPARE = "Content + Style LoRA", "Compare Fusion Methods"
MODULE = "custom_nodes.craft-lora"
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
PLACE = (700, 300)  # of the mouse, where nothing lies over the graph
COLOURS = 16  # a picture has more

HANGS_ON_THE_MOUSE = "() => app.graph.nodes.some((node) => node.flags.ghost)"
SAVED = "() => JSON.stringify(app.graph.serialize())"
COMMAND = "(id) => app.extensionManager.command.execute(id)"
VALUES = """() => {
    const values = (node) => (node.widgets ?? [])
        .filter((one) => one.type !== "craft_drawing" || !node.subgraph)
        .map((one) => [one.name, one.value])
    const host = app.graph.nodes.find((node) => node.subgraph)
    return [values(host), host.subgraph.nodes.map((node) => [node.type, values(node)])]
}"""

# A loader, a small latent and what takes each output, linked to the only subgraph node.
WIRE = """(settings) => {
    const graph = app.graph
    const host = graph.nodes.find((node) => node.subgraph)
    const add = (type, down, values = {}) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = [host.pos[0] - 400, host.pos[1] + down]
        for (const [name, value] of Object.entries(values))
            node.widgets.find((one) => one.name === name).value = value
        return node
    }
    const loader = add("CheckpointLoaderSimple", 0, { ckpt_name: "craft_small_world.safetensors" })
    const latent = add("EmptyLatentImage", 200, { width: 64, height: 64 })
    for (const [node, slot, input] of [[loader, 0, "model"], [loader, 1, "clip"],
            [loader, 2, "vae"], [latent, 0, "latent_image"]])
        if (host.findInputSlot(input) >= 0) node.connect(slot, host, input)
    const save = add("SaveImage", 900)
    if (host.outputs[0].type === "LATENT") {
        const decode = add("VAEDecode", 700)
        host.connect(0, decode, "samples")
        loader.connect(2, decode, "vae")
        decode.connect(0, save, "images")
    } else host.connect(0, save, "images")
    for (const [name, value] of Object.entries(settings)) {
        const widget = host.widgets.find((one) => one.name === name)
        widget.value = value
        widget.callback?.(value)
    }
}"""
SHOWN = """() => {
    const node = app.graph.nodes.find((one) => one.type === "SaveImage")
    return app.nodeOutputs[node.id]?.images ?? []
}"""
SMALL_WORLD = {
    "prompt": "<c>a sks animal</c> in <s>zwx style</s>",
    "content_lora": "craft_small_world_content.safetensors",
    "style_lora": "craft_small_world_style.safetensors",
    "content_strength": 0.8,
    "style_strength": 0.4,
    "negative_prompt": "blur",
    "steps": 4,
    "cfg": 3,
}
OWN = {
    FUSION: {"seed": 123456789},
    COMPARE: {"first_seed": 77, "seeds": 1, "methods": "direct\nk_lora: pattern = s*", "cell": 64},
}


@pytest.fixture(params=[FUSION, COMPARE])
def added(comfy, request) -> Iterator[str]:
    """A blueprint on an empty graph, taken from the node search."""
    comfy.open_workflow(EMPTY, "empty")
    add_by_search(comfy, request.param)
    yield request.param
    assert comfy.our_errors() == []


def add_by_search(comfy, name: str) -> None:
    comfy.evaluate(COMMAND, "Workspace.SearchBox.Toggle")
    comfy.page.keyboard.type(name)
    comfy.page.get_by_role("option").filter(has_text=name).first.wait_for()
    comfy.page.keyboard.press("Enter")
    comfy.page.wait_for_function(HANGS_ON_THE_MOUSE)
    comfy.page.get_by_role("option").first.wait_for(state="detached")
    comfy.page.mouse.move(*PLACE)
    comfy.page.mouse.click(PLACE[0] + 20, PLACE[1] + 20)
    comfy.page.wait_for_function(f"() => !({HANGS_ON_THE_MOUSE})()")


def test_the_server_offers_the_blueprints_as_they_are_in_their_files(live_server):
    offered = live_server.server.client.get_json("/global_subgraphs")
    ours = {
        entry["name"]: key for key, entry in offered.items() if entry["info"]["node_pack"] == MODULE
    }
    assert set(ours) == {file.stem for file in FILES}
    for file in FILES:
        served = live_server.server.client.get_json(f"/global_subgraphs/{ours[file.stem]}")
        assert served["data"] == file.read_text("utf-8")


def test_the_node_library_lists_the_blueprints(comfy):
    comfy.open_workflow(EMPTY, "empty")
    comfy.evaluate(COMMAND, "Workspace.ToggleSidebarTab.node-library")
    comfy.page.get_by_placeholder("Search").first.fill("Fusion Methods")
    comfy.page.get_by_role("treeitem").filter(has_text=COMPARE).first.wait_for()
    comfy.evaluate(COMMAND, "Workspace.ToggleSidebarTab.node-library")
    assert comfy.our_errors() == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_page_finds_a_blueprint_file_well_formed(comfy, file):
    comfy.open_workflow(json.loads(file.read_text("utf-8")), file.stem)
    assert [text for text in comfy.alerts() if "Invalid workflow" in text] == []
    assert comfy.our_errors() == []


def test_a_blueprint_comes_with_the_values_of_its_file(comfy, added):
    shipped = json.loads((ROOT / "subgraphs" / f"{added}.json").read_text("utf-8"))
    (host,) = shipped["nodes"]
    own, inner = comfy.evaluate(VALUES)
    assert [value for _, value in own] == host["widgets_values"]
    nodes = shipped["definitions"]["subgraphs"][0]["nodes"]
    assert sorted(kind for kind, _ in inner) == sorted(node["type"] for node in nodes)


def saved_values(workflow: dict[str, Any]) -> list[Any]:
    nodes = [*workflow["nodes"], *workflow["definitions"]["subgraphs"][0]["nodes"]]
    return [[node["type"], node.get("widgets_values") or []] for node in nodes]


def test_every_value_inside_and_out_survives_saving_and_opening(comfy, added):
    comfy.evaluate(WIRE, {**SMALL_WORLD, **OWN[added]})
    before, seen = json.loads(comfy.evaluate(SAVED)), comfy.evaluate(VALUES)
    assert dict(seen[0])["content_lora"] == SMALL_WORLD["content_lora"]
    comfy.open_workflow(before, "reopened")
    assert saved_values(json.loads(comfy.evaluate(SAVED))) == saved_values(before)
    assert comfy.evaluate(VALUES) == seen
    assert [text for text in comfy.alerts() if "Invalid workflow" in text] == []


def test_a_blueprint_runs_on_the_small_world_to_a_picture(comfy, live_server, added):
    comfy.evaluate(WIRE, {**SMALL_WORLD, **OWN[added]})
    assert comfy.run() == ["execution_success", ""]
    comfy.dismiss_alerts()
    comfy.fit()
    comfy.keep_screenshot(f"blueprint_{added.split()[0].lower()}")
    items = comfy.evaluate(SHOWN)
    assert items
    for item in items:
        picture = Image.open(io.BytesIO(live_server.server.client.fetch(item))).convert("RGB")
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > COLOURS
