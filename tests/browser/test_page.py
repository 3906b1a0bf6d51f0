"""The pack in the host's own page: what we ship opens, keeps its values, and runs from there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launcher.paths import ROOT
from launcher.workflow import read_workflow

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
DEMO = ROOT / "workflows" / "demo_small_world.json"
PACK = "comfyui-craft-lora"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
FEW_STEPS = 4
RUN_LIMIT = 240_000  # milliseconds

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)

# Files of the user's that need not be there, and download sites that the page may not reach.
NOT_OURS = ("/userdata", "/user.css", "Content Security Policy")

UNKNOWN_TYPES = """() => app.graph.nodes
    .filter((node) => !(node.type in LiteGraph.registered_node_types))
    .map((node) => node.type)"""

NOTE_THE_END = """() => {
    window.ended = null
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(kind, (event) => {
            window.ended ??= [kind, event.detail.exception_message ?? ""]
        })
}"""

SET_WIDGET = """([type, name, value]) => {
    for (const node of app.graph.nodes.filter((node) => node.type === type))
        node.widgets.find((widget) => widget.name === name).value = value
}"""

SAVED_BY_NODE = """() => app.graph.nodes
    .filter((node) => node.type === "SaveImage")
    .map((node) => app.nodeOutputs[node.id]?.images ?? [])"""

ALL_ARE_SHOWN = """() => app.graph.nodes
    .filter((node) => node.type === "SaveImage")
    .every((node) => node.imgs?.length && node.imgs.every((image) => image.naturalWidth > 0))"""

# Choose an entry of a menu on a new node; the names of the inputs and widgets it then has.
CHOOSE = """([type, menu, entry]) => {
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    node.widgets.find((widget) => widget.name === menu).value = entry
    const names = [...node.inputs, ...node.widgets].map((slot) => slot.name)
    app.graph.remove(node)
    return names
}"""


def our_errors(errors: list[str]) -> list[str]:
    return [error for error in errors if not any(known in error for known in NOT_OURS)]


def our_nodes(live_server) -> dict[str, dict[str, Any]]:
    return {
        name: info
        for name, info in live_server.object_info().items()
        if info["python_module"] == f"custom_nodes.{PACK}"
    }


def widget_values(workflow: dict[str, Any]) -> dict[int, list[Any]]:
    return {node["id"]: node.get("widgets_values") or [] for node in workflow["nodes"]}


def all_inputs(inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {**inputs.get("required", {}), **inputs.get("optional", {})}


def test_the_page_loads_without_an_error(comfy):
    assert "ComfyUI" in comfy.page.title()
    assert our_errors(comfy.errors) == []


def test_the_page_knows_every_node_of_the_pack(comfy, live_server):
    known = set(comfy.evaluate("() => Object.keys(LiteGraph.registered_node_types)"))
    assert our_nodes(live_server).keys() and our_nodes(live_server).keys() <= known


def test_every_entry_of_our_menus_brings_its_inputs_in_the_page(comfy, live_server):
    comfy.errors.clear()
    tried = 0
    for node, info in our_nodes(live_server).items():
        for menu, (kind, *options) in all_inputs(info["input"]).items():
            for entry in options[0]["options"] if kind == DYNAMIC_COMBO else []:
                wanted = {f"{menu}.{name}" for name in all_inputs(entry["inputs"])}
                drawn = comfy.evaluate(CHOOSE, [node, menu, entry["key"]])
                assert wanted == {name for name in drawn if name.startswith(f"{menu}.")}
                tried += 1
    assert tried > 10
    assert our_errors(comfy.errors) == []


@every_workflow
def test_a_workflow_opens_with_all_its_nodes_and_without_an_error(comfy, path: Path):
    workflow = read_workflow(path)
    comfy.open_workflow(workflow, path.stem)
    comfy.keep_screenshot(path.stem)
    assert comfy.evaluate("() => app.graph.nodes.length") == len(workflow["nodes"])
    assert comfy.evaluate(UNKNOWN_TYPES) == []
    assert our_errors(comfy.errors) == []


@every_workflow
def test_the_page_finds_a_workflow_file_well_formed(comfy, path: Path):
    comfy.open_workflow(read_workflow(path), path.stem)
    assert [text for text in comfy.alerts() if "Invalid workflow" in text] == []


@every_workflow
def test_widget_values_and_links_survive_opening_and_saving(comfy, path: Path):
    workflow = read_workflow(path)
    comfy.open_workflow(workflow, path.stem)
    saved = comfy.saved()
    assert widget_values(saved) == widget_values(workflow)
    assert sorted(link[1:] for link in saved["links"]) == sorted(
        link[1:] for link in workflow["links"]
    )


def test_the_demo_runs_from_the_page_to_pictures(comfy, live_server):
    comfy.open_workflow(read_workflow(DEMO), DEMO.stem)
    comfy.evaluate(SET_WIDGET, ["CRAFTACFGKSampler", "steps", FEW_STEPS])
    comfy.evaluate(NOTE_THE_END)
    with comfy.page.expect_response(
        lambda answer: answer.url.endswith("/prompt") and answer.request.method == "POST"
    ) as queued:
        comfy.page.get_by_test_id("queue-button").click()
    assert queued.value.ok, queued.value.text()
    comfy.page.wait_for_function("() => window.ended", timeout=RUN_LIMIT)
    assert comfy.evaluate("() => window.ended") == ["execution_success", ""]

    comfy.page.wait_for_function(ALL_ARE_SHOWN)
    comfy.keep_screenshot(f"{DEMO.stem}_run")
    by_node = comfy.evaluate(SAVED_BY_NODE)
    assert by_node and all(by_node)
    for item in (item for items in by_node for item in items):
        picture = Image.open(io.BytesIO(live_server.server.client.fetch(item))).convert("RGB")
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 16
    assert our_errors(comfy.errors) == []


def test_every_node_of_the_pack_has_its_help_page(live_server):
    for node in our_nodes(live_server):
        served = live_server.server.client.get(f"/extensions/{PACK}/docs/{node}.md")
        assert served == (ROOT / "web" / "docs" / f"{node}.md").read_bytes()
        assert len(served.strip()) > 200
