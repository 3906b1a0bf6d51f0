"""The pack in the host's own page: what we ship opens, keeps its values, and runs from there."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from craft_core.remote.workflow import read_workflow
from launcher.paths import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
DEMO = ROOT / "workflows" / "demo_small_world.json"
PACK = "comfyui-craft-lora"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
RUN_LIMIT = 240_000  # milliseconds

# What the bare page writes too: files of the user's that need not be there, download sites that it
# may not ask for a missing model, and a slip of its own while it starts.
NOT_OURS = (
    "/userdata",
    "/user.css",
    "Content Security Policy",
    "ComfyApp graph accessed before initialization",
)

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


@dataclass(frozen=True)
class Opened:
    """A workflow file, and what the page made of it."""

    workflow: dict[str, Any]
    saved: dict[str, Any]
    unknown_types: list[str]
    errors: list[str]
    alerts: list[str]


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


def ends_of_links(workflow: dict[str, Any]) -> list[list[Any]]:
    return sorted(link[1:] for link in workflow["links"])


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


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def opened(comfy, request) -> Opened:
    """A shipped workflow, opened in the page."""
    workflow = read_workflow(request.param)
    comfy.open_workflow(workflow, request.param.stem)
    alerts, errors = comfy.alerts(), our_errors(comfy.errors)
    comfy.keep_screenshot(request.param.stem)
    return Opened(workflow, comfy.saved(), comfy.evaluate(UNKNOWN_TYPES), errors, alerts)


def test_a_workflow_opens_with_all_its_nodes_and_without_an_error(opened):
    assert len(opened.saved["nodes"]) == len(opened.workflow["nodes"]) > 0
    assert opened.unknown_types == []
    assert opened.errors == []


def test_the_page_finds_a_workflow_file_well_formed(opened):
    assert [text for text in opened.alerts if "Invalid workflow" in text] == []


def test_widget_values_survive_opening_and_saving(opened):
    assert widget_values(opened.saved) == widget_values(opened.workflow)


def test_links_survive_opening_and_saving(opened):
    assert ends_of_links(opened.saved) == ends_of_links(opened.workflow)


def test_the_demo_as_shipped_runs_from_the_page_to_pictures(comfy, live_server):
    comfy.open_workflow(read_workflow(DEMO), DEMO.stem)
    comfy.evaluate(NOTE_THE_END)
    with comfy.page.expect_response(
        lambda answer: answer.url.endswith("/prompt") and answer.request.method == "POST"
    ) as queued:
        comfy.page.get_by_test_id("queue-button").click()
    assert queued.value.ok, queued.value.text()
    comfy.page.wait_for_function("() => window.ended", timeout=RUN_LIMIT)
    assert comfy.evaluate("() => window.ended") == ["execution_success", ""]

    comfy.page.wait_for_function(ALL_ARE_SHOWN)
    comfy.dismiss_alerts()
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
