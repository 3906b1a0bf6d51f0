"""The pack in the host's own page: what we ship opens, keeps its values, and runs from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from conftest import close_overlays
from craft_lora_pack.client.workflow import read_workflow
from scenes import CUT_OFF, MEASURED, OVERLAYS

from launcher.paths import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
PACK = "craft-lora"
DOCS = ROOT / "web" / "docs"
NODES = sorted(page.stem for page in DOCS.glob("*.md"))
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"

UNKNOWN_TYPES = """() => app.graph.nodes
    .filter((node) => !(node.type in LiteGraph.registered_node_types))
    .map((node) => node.type)"""

# Choose an entry of a menu on a new node; the names of the inputs and widgets it then has.
CHOOSE = """([type, menu, entry]) => {
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    node.widgets.find((widget) => widget.name === menu).value = entry
    const names = [...node.inputs, ...node.widgets].map((slot) => slot.name)
    app.graph.remove(node)
    return names
}"""

# The pictures of a help page.
PICTURES = """(panel) => [...panel.querySelectorAll("img")].map((image) => ({
    alt: image.alt,
    path: new URL(image.src).pathname,
    loaded: image.complete && image.naturalWidth > 0,
    fits: image.getBoundingClientRect().right <= panel.getBoundingClientRect().right + 1,
}))"""


# What lays something over the page: dialogs, one of them above another, and menus.
OPENERS = {
    "our dialog": "app.extensionManager.command.execute('craft_lora.two_loras')",
    "templates": "app.extensionManager.command.execute('Comfy.BrowseTemplates')",
    "question over the settings": """
        app.extensionManager.command.execute("Comfy.ShowSettingsDialog")
        app.extensionManager.dialog.prompt({ title: "A name", message: "Which?" })""",
    "question over our dialog": """
        app.extensionManager.command.execute("craft_lora.two_loras")
        app.extensionManager.dialog.prompt({ title: "A name", message: "Which?" })""",
    "older dialog": "app.ui.dialog.show('A message')",
    "menu": """
        const event = new MouseEvent("click", { clientX: 900, clientY: 500 })
        new LiteGraph.ContextMenu(["one", "two"], { event })""",
    "node search": "app.extensionManager._p._s.get('searchBox').visible = true",
    "help centre": "app.extensionManager.command.execute('Comfy.ToggleHelpCenter')",
    "main menu": "document.querySelector('.comfy-menu-button-wrapper').click()",
}


@dataclass(frozen=True)
class Opened:
    """A workflow file, and what the page made of it."""

    workflow: dict[str, Any]
    saved: dict[str, Any]
    unknown_types: list[str]
    errors: list[str]
    alerts: list[str]
    cut_off: list[list[Any]]


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
    assert comfy.our_errors() == []


def test_the_page_knows_every_node_of_the_pack(comfy, live_server):
    known = set(comfy.evaluate("() => Object.keys(LiteGraph.registered_node_types)"))
    assert our_nodes(live_server).keys() and our_nodes(live_server).keys() <= known


def leave_open(comfy, opener: str) -> None:
    comfy.evaluate(f"() => {{ {OPENERS[opener]} }}")
    assert comfy.until(lambda: comfy.evaluate(OVERLAYS), bool)


@pytest.mark.parametrize("opener", OPENERS)
def test_the_page_can_be_clicked_when_what_was_left_open_is_closed(comfy, opener):
    assert comfy.evaluate(OVERLAYS) == []  # also what the case before has left
    leave_open(comfy, opener)
    close_overlays(comfy.page)
    assert comfy.evaluate(OVERLAYS) == []
    comfy.page.locator("#graph-canvas").click(trial=True)
    comfy.page.get_by_test_id("queue-button").click(trial=True)
    leave_open(comfy, opener)  # for the fixture that closes it after every test


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
    assert comfy.our_errors() == []


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def opened(comfy, request) -> Opened:
    """A shipped workflow, opened in the page."""
    workflow = read_workflow(request.param)
    comfy.open_workflow(workflow, request.param.stem)
    alerts, errors = comfy.alerts(), comfy.our_errors()
    comfy.page.wait_for_function(MEASURED)
    cut_off = comfy.until(lambda: comfy.evaluate(CUT_OFF), lambda found: not found)
    comfy.keep_screenshot(request.param.stem)
    return Opened(workflow, comfy.saved(), comfy.evaluate(UNKNOWN_TYPES), errors, alerts, cut_off)


def test_a_workflow_opens_with_all_its_nodes_and_without_an_error(opened):
    assert len(opened.saved["nodes"]) == len(opened.workflow["nodes"]) > 0
    assert opened.unknown_types == []
    assert opened.errors == []


def test_the_page_finds_a_workflow_file_well_formed(opened):
    assert [text for text in opened.alerts if "Invalid workflow" in text] == []


def test_every_text_of_a_workflow_has_a_box_as_tall_as_itself(opened):
    """On the classic canvas; on Vue nodes each is looked at before it runs."""
    assert opened.cut_off == []


def test_widget_values_survive_opening_and_saving(opened):
    assert widget_values(opened.saved) == widget_values(opened.workflow)


def test_links_survive_opening_and_saving(opened):
    assert ends_of_links(opened.saved) == ends_of_links(opened.workflow)


def test_every_node_of_the_pack_has_its_help_page(live_server):
    for node in our_nodes(live_server):
        served = live_server.server.client.get(f"/extensions/{PACK}/docs/{node}.md")
        assert served == (ROOT / "web" / "docs" / f"{node}.md").read_bytes()
        assert len(served.strip()) > 200


def title_and_alt(node: str) -> tuple[str, str]:
    lines = (DOCS / f"{node}.md").read_text("utf-8").split("\n")
    return lines[0].removeprefix("# "), lines[2].removeprefix("![").partition("]")[0]


@pytest.fixture(scope="module")
def page(comfy) -> Any:
    comfy.dismiss_alerts()
    return comfy.page


@pytest.mark.parametrize("node", NODES)
def test_the_info_button_of_a_node_shows_its_page_and_picture(comfy, page, node):
    """Opened as a user does."""
    comfy.errors.clear()
    title, alt = title_and_alt(node)
    help_page = comfy.help_of(node, title)
    help_page.locator("img").first.wait_for(state="visible")
    page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    comfy.keep_screenshot(f"help_{node}")

    address = f"/extensions/craft-lora/docs/pictures/{node}.png"
    assert help_page.evaluate(PICTURES) == [
        {"alt": alt, "path": address, "loaded": True, "fits": True}
    ]
    assert comfy.our_errors() == []
