"""The page in Chinese: our nodes' labels and tooltips are, and no value or saved graph differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.paths import ROOT

# Inputs of a Router that the page shows unasked: neither advanced nor of an entry not chosen.
SHOWN = ("model", "schedule", "prompt", "content_lora", "style_strength", "method_pattern")
FUSION = ROOT / "workflows" / "fusion_sdxl.json"
LIMIT = 300_000  # milliseconds; a busy machine needs long to load the page
READY = """
    window.app?.canvas?.graph && window.LiteGraph?.registered_node_types?.CRAFTRouter !== undefined
"""
LOAD = "([graph, name]) => app.loadGraphData(graph, true, true, name)"
MODERN = "(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
SAVED = "() => app.graph.serialize()"
PROMPT = "async () => (await app.graphToPrompt()).output"

# A new Router with the method chosen; how its title, inputs, widgets and outputs are written.
ROUTER = """(method) => {
    app.graph.clear()
    const node = LiteGraph.createNode("CRAFTRouter")
    app.graph.add(node)
    node.pos = [200, 200]
    node.widgets.find((widget) => widget.name === "method").value = method
    return {
        title: node.title,
        inputs: Object.fromEntries(node.inputs.map((slot) => [slot.name, slot.localized_name])),
        widgets: Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.label])),
        outputs: node.outputs.map((slot) => slot.localized_name),
        values: Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.value])),
    }
}"""

# Where on the screen a widget of the only node is.
PLACE = """(name) => {
    app.canvas.ds.reset()
    app.canvas.draw(true, true)
    const node = app.graph.nodes[0]
    const widget = node.widgets.find((widget) => widget.name === name)
    const box = app.canvas.canvas.getBoundingClientRect()
    return [box.x + node.pos[0] + 60, box.y + node.pos[1] + widget.y + 10]
}"""


def chinese() -> dict[str, Any]:
    return json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))


def category(language: str) -> str:
    texts = json.loads((ROOT / "locales" / language / "main.json").read_text("utf-8"))
    return texts["templateWorkflows"]["category"]["comfyui-craft-lora"]


def graph_and_prompt(page, workflow: Path) -> tuple[Any, Any]:
    """A workflow as the page saves it and as it queues it, without what is only for the eye."""
    page.evaluate(LOAD, [json.loads(workflow.read_text("utf-8")), workflow.stem])
    prompt = page.evaluate(PROMPT)
    for node in prompt.values():
        node.pop("_meta")
    return graph_of(page.evaluate(SAVED)), prompt


def graph_of(saved: dict[str, Any]) -> Any:
    nodes = {
        node["id"]: (
            node["type"],
            node.get("widgets_values"),
            [(slot["name"], slot["type"], slot["link"]) for slot in node.get("inputs", [])],
            [(slot["name"], slot["type"], slot["links"]) for slot in node.get("outputs", [])],
        )
        for node in saved["nodes"]
    }
    return nodes, sorted(saved["links"])


@pytest.fixture(scope="module")
def page(comfy, live_server) -> Iterator[Any]:
    """A second page of the same browser, in Chinese."""
    set_locale = live_server.server.client.post_json
    set_locale("/settings/Comfy.Locale", "zh")
    page = comfy.page.context.browser.new_page(viewport=comfy.page.viewport_size)
    page.set_default_timeout(LIMIT)
    page.goto(live_server.url)
    page.wait_for_function(READY)
    yield page
    page.close()
    set_locale("/settings/Comfy.Locale", "en")


def tooltip_at(page, widget: str) -> str:
    tooltip = page.locator(".node-tooltip")
    for turn in range(30):  # the page must have drawn the node before it knows what is hovered
        x, y = page.evaluate(PLACE, widget)
        page.mouse.move(x + turn, y)
        page.wait_for_timeout(1000)
        if tooltip.is_visible():
            return tooltip.inner_text()
    raise AssertionError(f"no tooltip over {widget}")


def test_a_router_is_written_in_chinese(page):
    texts = chinese()["CRAFTRouter"]
    router = page.evaluate(ROUTER, "k_lora")
    assert router["title"] == texts["display_name"]
    labels = {key: entry["name"] for key, entry in texts["inputs"].items()}
    drawn = {name for name in router["widgets"] if name.startswith("craft_")}  # by our extension
    widgets = {name: router["widgets"][name] for name in router["widgets"].keys() - drawn}
    for shown in (router["inputs"], widgets):
        assert {name: labels[name.replace(".", "_")] for name in shown} == shown
    assert router["widgets"]["method.selection"] == "选择方式"
    assert router["outputs"] == [entry["name"] for entry in texts["outputs"].values()]


def test_a_routers_values_are_not_translated(comfy, page):
    assert page.evaluate(ROUTER, "k_lora")["values"] == comfy.evaluate(ROUTER, "k_lora")["values"]


@pytest.mark.parametrize("widget", ["content_strength", "method", "method.selection"])
def test_a_tooltip_is_in_chinese(comfy, page, widget):
    page.evaluate(ROUTER, "k_lora")
    texts = chinese()["CRAFTRouter"]["inputs"][widget.replace(".", "_")]
    assert tooltip_at(page, widget) == texts["tooltip"]
    page.screenshot(path=comfy.artifacts / f"chinese_{widget}.png")


def test_the_modern_nodes_are_in_chinese_too(comfy, page):
    texts = chinese()["CRAFTRouter"]
    page.evaluate(ROUTER, "k_lora")
    page.evaluate(MODERN, True)
    node = page.locator("[data-node-id]").filter(has_text=texts["display_name"])
    node.wait_for(state="visible")
    page.screenshot(path=comfy.artifacts / "chinese_modern.png")
    shown = node.inner_text()
    page.evaluate(MODERN, False)
    assert [name for name in SHOWN if texts["inputs"][name]["name"] not in shown] == []


def test_the_template_browser_names_the_pack(page):
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(category("zh")).first.wait_for(state="attached", timeout=60_000)
    page.keyboard.press("Escape")


def test_a_workflow_is_saved_and_queued_the_same_in_both_languages(comfy, page):
    assert graph_and_prompt(page, FUSION) == graph_and_prompt(comfy.page, FUSION)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1000)
    page.screenshot(path=comfy.artifacts / "chinese_workflow.png")
