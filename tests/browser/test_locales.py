"""The page in Chinese: our nodes' labels, tooltips, drawings and help are, and no value or saved
graph differs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenes import MEASURED, RESTORED, once

from launcher.paths import ROOT

ONCE = once("demo")

# Inputs of a Router that the page shows at first: not the advanced ones, nor those of other menu
# entries.
SHOWN = ("model", "schedule", "prompt", "content_lora", "style_strength", "method_pattern")
FUSION = ROOT / "workflows" / "fusion_sdxl.json"
DEMO = ROOT / "workflows" / "demo_small_world.json"
OURS = "/extensions/craft-lora/"
SCHEDULE, ROUTER_NODE, SAMPLER = "CRAFTTimestepSchedule", "CRAFTRouter", "CRAFTACFGKSampler"
LOAD_AS = "([graph, name, options]) => app.loadGraphData(graph, true, true, name, options)"
LOAD = "([graph, name]) => app.loadGraphData(graph, true, true, name)"
SAVED = "() => app.graph.serialize()"
SAVED_FILE = "() => JSON.stringify(app.graph.serialize())"  # the same without what is undefined
PROMPT = "async () => (await app.graphToPrompt()).output"

# A new Router with the method chosen; how its title, inputs, widgets and outputs are written.
# The page keeps widgets' values by graph and node after a graph is cleared, for nodes of the same
# number, too; so the new node has a graph's id that none had before.
ROUTER = """(method) => {
    app.graph.clear()
    app.graph.id = crypto.randomUUID()
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

# The visible text of the drawing on a type's only node, and the tooltips of its parts.
SEEN = """(type) => {
    const node = app.canvas.graph?.nodes.find((node) => node.type === type)
    const drawing = node?.widgets.find((widget) => widget.name.startsWith("craft_"))
    const titles = [...drawing?.element.querySelectorAll("[title]") ?? []].map((part) => part.title)
    return [drawing?.element.innerText ?? "", ...titles].join("\\n")
}"""

SET = """([type, name, value]) => {
    const node = app.canvas.graph.nodes.find((node) => node.type === type)
    node.widgets.find((widget) => widget.name === name).value = value
}"""

SWITCH = "(language) => app.extensionManager.setting.set('Comfy.Locale', language)"

# Where on the screen a widget of the only node is.
PLACE = """(name) => {
    app.canvas.ds.reset()
    app.canvas.draw(true, true)
    const node = app.graph.nodes[0]
    const widget = node.widgets.find((widget) => widget.name === name)
    const box = app.canvas.canvas.getBoundingClientRect()
    return [box.x + node.pos[0] + 60, box.y + node.pos[1] + widget.y + 10]
}"""


# A new Timestep Schedule at a place of the canvas.
SCHEDULE_AT = """(place) => {
    app.graph.clear()
    app.graph.id = crypto.randomUUID()
    const node = LiteGraph.createNode("CRAFTTimestepSchedule")
    app.graph.add(node)
    node.pos = place
}"""

# The value of the first node's widget, and how the classic canvas writes it.
CHOSEN = """(name) => {
    const widget = app.graph.nodes[0].widgets.find((widget) => widget.name === name)
    return [widget.value, widget._displayValue]
}"""

BROWSE = "() => app.extensionManager.command.execute('Comfy.BrowseTemplates')"
OPENED = """() => !app.canvas.graph.nodes.length ? null
    : app.extensionManager.workflow.activeWorkflow.filename"""


def chinese() -> dict[str, Any]:
    return json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))


def main(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "main.json").read_text("utf-8"))


def category(language: str) -> str:
    return main(language)["templateWorkflows"]["category"]["craft-lora"]


def open_template(comfy_page, language: str, name: str) -> dict[str, Any]:
    """Click a card of the template browser; the graph that opens, as the page saves it."""
    page = comfy_page.page
    comfy_page.dismiss_alerts()
    page.evaluate("() => app.graph.clear()")
    page.evaluate(BROWSE)
    page.get_by_text(category(language)).first.click()
    page.get_by_test_id(f"template-workflow-{name}").click()
    opened = comfy_page.until(lambda: page.evaluate(OPENED), lambda at: (at or "").startswith(name))
    assert opened.startswith(name)
    page.wait_for_function(RESTORED)
    return json.loads(page.evaluate(SAVED_FILE))


def texts_of(workflow: dict[str, Any]) -> dict[tuple[int, str], str]:
    """What a workflow says by itself: the titles that it sets, and the texts of its notes."""
    notes = {
        (node["id"], "note"): node["widgets_values"][0]
        for node in workflow["nodes"]
        if node["type"] == "MarkdownNote"
    }
    titles = {(n["id"], "title"): n["title"] for n in workflow["nodes"] if "title" in n}
    return notes | titles


def in_chinese(workflow: Path) -> dict[tuple[int, str], str]:
    lines = main("zh")["craft_lora_templates"][workflow.stem]
    english = texts_of(json.loads(workflow.read_text("utf-8")))
    return {
        place: "\n".join(lines.get(line, line) for line in text.split("\n"))
        for place, text in english.items()
    }


def graph_and_prompt(page, workflow: Path) -> tuple[Any, Any]:
    """A workflow as the page saves it and as it queues it, without what only affects its looks."""
    page.evaluate(LOAD, [json.loads(workflow.read_text("utf-8")), workflow.stem])
    prompt = page.evaluate(PROMPT)
    for node in prompt.values():
        node.pop("_meta")
    return graph_of(page.evaluate(SAVED)), prompt


def without(saved: dict[str, Any], notes: list[int]) -> Any:
    """The graph that was saved, without the texts of its notes."""
    nodes, links = graph_of(saved)
    return {number: node for number, node in nodes.items() if number not in notes}, links


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
def second(comfy, live_server) -> Iterator[Any]:
    """A second page of the same browser, in Chinese, with what it has written as errors."""
    set_locale = live_server.server.client.post_json
    set_locale("/settings/Comfy.Locale", "zh")
    second = type(comfy).load(comfy.page.context.browser, live_server.url, comfy.artifacts)
    yield second
    second.page.close()
    set_locale("/settings/Comfy.Locale", "en")


@pytest.fixture
def page(second) -> Any:
    return second.page


@pytest.fixture(params=["vue", "classic"])
def demo(second, request) -> Iterator[Any]:
    """The demo open in Chinese, drawn in one way and the other."""
    with second.drawing(request.param):
        second.open_workflow(json.loads(DEMO.read_text("utf-8")), DEMO.stem)
        yield second
    assert [error for error in second.errors if OURS in error] == []


def shows(page, node: str, text: str) -> None:
    script = f"([type, text]) => ({SEEN})(type).includes(text)"
    page.wait_for_function(script, arg=[node, text])


def tooltip_at(page, widget: str) -> str:
    page.wait_for_function(MEASURED)  # what the node draws moves the widgets below it
    x, y = page.evaluate(PLACE, widget)
    page.mouse.move(x, y - 1)
    page.mouse.move(x, y)
    tooltip = page.locator(".node-tooltip")
    tooltip.wait_for(state="visible")
    return tooltip.inner_text()


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


def test_the_modern_nodes_are_in_chinese_too(second, page):
    texts = chinese()["CRAFTRouter"]
    page.evaluate(ROUTER, "k_lora")
    with second.drawing("vue"):
        node = page.locator("[data-node-id]").filter(has_text=texts["display_name"])
        node.wait_for(state="visible")
        second.keep_screenshot("chinese_modern")
        shown = node.inner_text()
    assert [name for name in SHOWN if texts["inputs"][name]["name"] not in shown] == []


def test_the_template_browser_names_the_pack_and_its_templates(second, page):
    page.evaluate(BROWSE)
    page.get_by_text(category("zh")).first.click()
    card = page.get_by_test_id(f"template-workflow-{FUSION.stem}")
    title = main("zh")["craft_lora"]["Two LoRAs in one picture (SDXL)"]
    card.get_by_role("heading", name=title).wait_for()
    page.screenshot(path=second.artifacts / "chinese_templates.png")
    page.keyboard.press("Escape")


def test_a_template_opens_with_chinese_notes_and_titles(comfy, second):
    english, wanted = texts_of(json.loads(DEMO.read_text("utf-8"))), in_chinese(DEMO)
    assert [place for place, text in english.items() if text == wanted[place]] == []
    saved = open_template(second, "zh", DEMO.stem)
    second.fit()
    second.keep_screenshot("chinese_template")
    assert texts_of(saved).items() >= wanted.items()
    notes = [node for node, kind in wanted if kind == "note"]
    assert notes and without(saved, notes) == without(open_template(comfy, "en", DEMO.stem), notes)
    assert [error for error in second.errors if OURS in error] == []


def test_in_english_a_template_opens_as_its_file_says(comfy):
    english = texts_of(json.loads(DEMO.read_text("utf-8")))
    assert texts_of(open_template(comfy, "en", DEMO.stem)).items() >= english.items()


def test_a_template_is_each_time_a_workflow_of_its_own(comfy):
    """Else a second one would show what the first one's nodes said of their runs."""
    template, ids = json.loads(DEMO.read_text("utf-8")), set()
    for options, kind in ({"openSource": "template"}, "new"), ({}, "own"):
        for _ in range(2):
            comfy.evaluate(LOAD_AS, [template, DEMO.stem, options])
            comfy.page.wait_for_function(RESTORED)
            ids.add((kind, str(uuid.UUID(comfy.saved()["id"]))))
    assert ("own", template["id"]) in ids and ("new", template["id"]) not in ids
    assert len(ids) == 3


def test_a_workflow_of_the_users_own_keeps_its_language(second):
    """Also one that was saved from a template, under its name."""
    for own in (json.loads(DEMO.read_text("utf-8")), open_template(second, "zh", DEMO.stem)):
        second.open_workflow(own, DEMO.stem)
        assert texts_of(second.saved()).items() >= texts_of(own).items()
        assert second.alerts() == []


def test_the_values_of_menus_have_chinese_words_and_stay_as_they_are(second, page):
    options = chinese()["CRAFTTimestepSchedule"]["inputs"]["shape"]["options"]
    page.evaluate(SCHEDULE_AT, [200, 920])  # so low that the list does not fit below the menu
    page.wait_for_function(MEASURED)
    assert page.evaluate(CHOSEN, "shape") == ["cosine", options["cosine"]]
    page.mouse.click(*page.evaluate(PLACE, "shape"))
    entries = page.locator(".litecontextmenu .litemenu-entry")
    entries.last.wait_for()
    second.keep_screenshot("chinese_menu_values")
    assert entries.all_inner_texts() == list(options.values())
    box = entries.last.bounding_box()
    assert box and box["y"] + box["height"] <= page.viewport_size["height"]
    entries.filter(has_text="sigmoid").click()
    assert page.evaluate(CHOSEN, "shape") == ["sigmoid", options["sigmoid"]]


def test_the_modern_nodes_have_the_words_for_values_too(second, page):
    schedule = chinese()["CRAFTTimestepSchedule"]
    page.evaluate(SCHEDULE_AT, [200, 200])
    with second.drawing("vue"):
        node = page.locator("[data-node-id]").filter(has_text=schedule["display_name"])
        node.filter(has_text=schedule["inputs"]["shape"]["options"]["cosine"]).wait_for()


def test_a_workflow_is_saved_and_queued_the_same_in_both_languages(comfy, second, page):
    assert graph_and_prompt(page, FUSION) == graph_and_prompt(comfy.page, FUSION)
    second.fit()
    second.keep_screenshot("chinese_workflow")


def test_the_drawings_are_in_chinese(demo, request):
    page = demo.page
    shows(page, SCHEDULE, "内容 风格\n第一步 → 最后一步")
    shows(page, ROUTER_NODE, "层：内容 204 层，风格 204 层（all）")
    shows(page, ROUTER_NODE, "craft_small_world.safetensors：204 层")
    demo.keep_screenshot(f"chinese_drawings_{request.node.callspec.id}")
    assert demo.errors == []


@ONCE
def test_warnings_and_mistakes_are_shown_in_chinese(demo, request):
    page = demo.page
    for node, name, value, message in (
        (ROUTER_NODE, "prompt", "a fox in <s>ink</s>", "没有 <c>，因此内容 LoRA 不起作用。"),
        (
            ROUTER_NODE,
            "prompt",
            "a dog</c>",
            "</c> 没有与之对应的起始标记。请用 <c>内容短语</c>",
        ),
        (ROUTER_NODE, "method", "k_lora", "层：k_lora 不使用层集"),
        (SAMPLER, "cfg", 1.0, "cfg 为 1 时，多数采样器不计算无条件行"),
        (SCHEDULE, "shape", "window", "内容 风格"),
        (SCHEDULE, "shape.content_start", 0.9, "content_start = 0.9 晚于 content_end = 0.5。窗口"),
    ):
        page.evaluate(SET, [node, name, value])
        shows(page, node, message)
    demo.keep_screenshot(f"chinese_warnings_{request.node.callspec.id}")
    assert demo.errors == []


def test_the_drawings_follow_a_change_of_the_language(demo):
    page = demo.page
    for language, schedule, router in (
        ("en", "content style\nfirst step → last", "Layers: 204 content, 204 style (all)"),
        ("ru", "content style\nfirst step → last", "Layers: 204 content, 204 style (all)"),
        ("zh", "内容 风格\n第一步 → 最后一步", "层：内容 204 层，风格 204 层（all）"),
    ):
        page.evaluate(SWITCH, language)
        shows(page, SCHEDULE, schedule)
        shows(page, ROUTER_NODE, router)


@pytest.mark.parametrize("node", ["CRAFTTimestepSchedule", "CRAFTLearnMerge"])
def test_the_help_is_in_chinese(second, node):
    title, *lines = (ROOT / "web" / "docs" / node / "zh.md").read_text("utf-8").splitlines()
    help_page = second.help_of(node, title.removeprefix("# "))
    shown = help_page.inner_text()
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings and [heading for heading in headings if heading not in shown] == []
    assert help_page.locator("tr").count() == sum(line.startswith("| ") for line in lines)
    assert not [sign for sign in ("**", "`", "](") if sign in shown]
    second.keep_screenshot(f"chinese_help_{node}")


def test_our_commands_are_in_chinese_in_the_menu_of_the_page(second, page):
    labels = main("zh")["menuLabels"]
    page.locator(".comfy-menu-button-wrapper").click()
    page.get_by_text("CRAFT-LoRA", exact=True).hover()
    for label in labels.values():
        page.get_by_text(label, exact=True).first.wait_for()
    second.keep_screenshot("chinese_menu")
    page.keyboard.press("Escape")
    assert len(labels) > 1 and not set(labels) & set(labels.values())


def test_our_commands_answer_in_chinese(second, page):
    said = main("zh")["craft_lora"]
    page.evaluate("() => app.graph.clear()")
    page.evaluate("() => { app.extensionManager.command.execute('craft_lora.insert_fusion') }")
    alert = page.get_by_role("alert").filter(has_text=said["Nothing was changed"])
    alert.wait_for()
    assert said["There is no sampler here that a model and a positive prompt feed"] in (
        alert.inner_text()
    )
    second.dismiss_alerts()
