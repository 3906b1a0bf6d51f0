"""What our nodes show of themselves in the page, on its Vue nodes and on the classic canvas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from scenes import TWO_FRAMES, once

from launcher.paths import ROOT

ONCE = once("nodes")
DEMO = ROOT / "workflows" / "demo_small_world.json"
OURS = "/extensions/craft-lora/"
LOADER, SCHEDULE, ROUTER, SAMPLER = 1, 3, 4, 7  # nodes of the demo
CURVES, ROUTING, WARNINGS = "craft_curves", "craft_routing", "craft_warnings"
PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"

# The visible text of a drawing; "" where it is hidden.
SEEN = """([id, name]) => {
    const graph = app.canvas.graph
    const widget = graph.getNodeById(id)?.widgets?.find((one) => one.name === name)
    const box = widget?.element.getBoundingClientRect()
    return widget?.element.isConnected && box.height > 0 && box.width > 0
        ? widget.element.innerText : ""
}"""

TYPE = "([id, name]) => app.graph.getNodeById(id).widgets.find((w) => w.name === name).type"

PATHS = """([id, name]) => {
    const element = app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === name).element
    return [...element.querySelectorAll("path")].map((path) => path.getAttribute("d"))
}"""

PIECES = """([id, kind]) => {
    const node = app.canvas.graph.getNodeById(id)
    const element = node.widgets.find((w) => w.name === "craft_routing").element
    return [...element.querySelectorAll(`.craft-${kind}`)].map((piece) => piece.textContent)
}"""

SET = """([id, name, value]) => {
    const widget = app.canvas.graph.getNodeById(id).widgets.find((one) => one.name === name)
    widget.value = value
    widget.callback?.(value)
}"""

CENTRE = """(id) => {
    const node = app.canvas.graph.getNodeById(id)
    const { ds, canvas } = app.canvas
    ds.scale = 1
    ds.offset = [600 - node.pos[0], 160 - node.pos[1]]
    app.canvas.setDirty(true, true)
}"""

REPORT = "craft_report"

FOCUS_PROMPT = """(text) => {
    const area = [...document.querySelectorAll("textarea")].find((one) => one.value === text)
    area.focus()
    area.setSelectionRange(text.length, text.length)
}"""

CAPTURE = """() => {
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
    ;(tracker.captureCanvasState ?? tracker.checkState).call(tracker)
}"""

STEPS = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
HEIGHT = f"() => app.graph.getNodeById({ROUTER}).size[1]"

COPY = """(id) => {
    const graph = app.canvas.graph
    const before = new Set(graph.nodes.map((node) => node.id))
    app.canvas.copyToClipboard([graph.getNodeById(id)])
    app.canvas.pasteFromClipboard()
    return graph.nodes.filter((node) => !before.has(node.id)).map((node) => Number(node.id))
}"""

INTO_SUBGRAPH = """async (id) => {
    const graph = app.canvas.graph
    app.canvas.deselectAll()
    app.canvas.select(graph.getNodeById(id))
    await app.extensionManager.command.execute("Comfy.Graph.ConvertToSubgraph")
    const host = graph.nodes.find((node) => node.subgraph)
    app.canvas.openSubgraph(host.subgraph, host)
    return [host.id, host.subgraph.nodes[0].id].map(Number)
}"""

PATTERNS = f"""() => app.graph.getNodeById({ROUTER}).widgets
    .find((widget) => widget.name === "layer_sets.patterns")?.value"""


def routers_in_memory(page: Any) -> int:
    """How many Router nodes the page's memory still holds, in any graph."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    kind = {"expression": "LiteGraph.registered_node_types.CRAFTRouter.prototype"}
    prototype = devtools.send("Runtime.evaluate", kind)["result"]["objectId"]
    found = devtools.send("Runtime.queryObjects", {"prototypeObjectId": prototype})["objects"]
    count = {
        "objectId": found["objectId"],
        "functionDeclaration": "function () { return this.length }",
        "returnByValue": True,
    }
    number = devtools.send("Runtime.callFunctionOn", count)["result"]["value"]
    devtools.detach()
    return number


def demo() -> dict[str, Any]:
    return json.loads(DEMO.read_text("utf-8"))


def widget_values(workflow: dict[str, Any]) -> dict[int, list[Any]]:
    """By node; the page's ids are numbers in some graphs and texts in others."""
    return {int(node["id"]): node.get("widgets_values") or [] for node in workflow["nodes"]}


class Drawn:
    """The demo open in the page, and what its nodes show."""

    def __init__(self, comfy):
        self.comfy, self.page = comfy, comfy.page

    def set(self, node: Any, widget: str, value: Any) -> None:
        self.comfy.evaluate(SET, [node, widget, value])

    def seen(self, node: Any, drawing: str) -> str:
        return self.comfy.evaluate(SEEN, [node, drawing])

    def shows(self, node: Any, drawing: str, text: str) -> None:
        self.page.wait_for_function(
            f"([id, name, text]) => ({SEEN})([id, name]).includes(text)",
            arg=[node, drawing, text],
        )

    def hides(self, node: Any, drawing: str, text: str) -> None:
        self.page.wait_for_function(
            f"([id, name, text]) => !({SEEN})([id, name]).includes(text)",
            arg=[node, drawing, text],
        )

    def curves(self) -> list[str]:
        return self.comfy.evaluate(PATHS, [SCHEDULE, CURVES])

    def curves_change(self, before: list[str]) -> list[str]:
        self.page.wait_for_function(
            f"([at, before]) => ({PATHS})(at).join() !== before",
            arg=[[SCHEDULE, CURVES], ",".join(before)],
        )
        return self.curves()

    def words(self, kind: str, node: Any = ROUTER) -> list[str]:
        return self.comfy.evaluate(PIECES, [node, kind])


@pytest.fixture(scope="module", params=["vue", "classic"])
def nodes(comfy, request) -> Iterator[str]:
    """Which way the page draws nodes."""
    with comfy.drawing(request.param):
        yield request.param


@pytest.fixture
def drawn(comfy, nodes) -> Iterator[Drawn]:
    comfy.open_workflow(demo(), DEMO.stem)
    yield Drawn(comfy)
    assert [error for error in comfy.errors if OURS in error] == []


def test_the_schedule_draws_its_curves_as_its_widgets_change(drawn, nodes):
    drawn.shows(SCHEDULE, CURVES, "content")
    grid, content, style = cosine = drawn.curves()
    assert content.startswith("M0 4") and style != content
    drawn.set(SCHEDULE, "shape", "linear")
    linear = drawn.curves_change(cosine)
    drawn.set(SCHEDULE, "content_floor", 1.0)
    _, content, style = drawn.curves_change(linear)
    assert content.endswith("L100 4") and style == linear[2]
    drawn.set(SCHEDULE, "shape", "window")
    drawn.set(SCHEDULE, "shape.content_start", 0.9)
    drawn.shows(SCHEDULE, CURVES, "content_start = 0.9 lies after content_end = 0.5")


@ONCE
def test_a_free_curve_is_drawn_with_the_hosts_editor(drawn):
    drawn.shows(SCHEDULE, CURVES, "content")
    before = drawn.curves()
    drawn.set(SCHEDULE, "shape", "curve")
    straight = drawn.curves_change(before)
    points = {"points": [[0, 0], [0.5, 1], [1, 0]], "interpolation": "monotone_cubic"}
    drawn.set(SCHEDULE, "shape.content", points)
    bent = drawn.curves_change(straight)
    assert bent[2] == straight[2] and bent[1] != straight[1]
    assert drawn.comfy.evaluate(TYPE, [SCHEDULE, "shape.content"]) == "curve"


def test_the_router_shows_whose_words_are_whose_while_they_are_typed(drawn):
    drawn.shows(ROUTER, ROUTING, "zwx style")
    assert drawn.words("content") == ["a sks animal"] and drawn.words("style") == ["zwx style"]
    drawn.comfy.evaluate(CENTRE, ROUTER)
    drawn.comfy.evaluate(FOCUS_PROMPT, PROMPT)
    drawn.page.keyboard.type(", <s>gold")
    drawn.shows(ROUTER, ROUTING, "is not closed")
    drawn.page.keyboard.type("</s>")
    drawn.comfy.becomes(PIECES, ["zwx style", "gold"], [ROUTER, "style"])


@ONCE
def test_a_prompt_that_cannot_be_read_says_why(drawn):
    drawn.set(ROUTER, "prompt", "a dog</c> in ink")
    drawn.shows(ROUTER, ROUTING, "</c> at character 6 with no marker to close")


@ONCE
def test_a_lora_without_its_marker_is_warned_of_until_it_is_there(drawn):
    drawn.set(ROUTER, "prompt", "<c>a sks animal</c> in zwx style")
    drawn.shows(ROUTER, ROUTING, "no <s>, so the style LoRA is off")
    drawn.set(ROUTER, "method", "direct")  # which does not use markers
    drawn.hides(ROUTER, ROUTING, "is off")
    drawn.set(ROUTER, "method", "craft")
    drawn.shows(ROUTER, ROUTING, "is off")
    drawn.set(ROUTER, "style_lora", "none")
    drawn.hides(ROUTER, ROUTING, "is off")


@ONCE
def test_the_router_counts_the_layers_of_the_connected_model(drawn):
    drawn.shows(ROUTER, ROUTING, "204 content, 204 style (all)")
    drawn.set(ROUTER, "layer_sets", "b-lora")
    drawn.shows(ROUTER, ROUTING, "12 content, 12 style (b-lora)")
    drawn.set(ROUTER, "layer_sets", "custom")
    drawn.set(ROUTER, "layer_sets.patterns", "content: mid_block\nstyle: up_blocks\nstyle: none.1")
    drawn.shows(ROUTER, ROUTING, "match no layer of this model: style: none.1")
    drawn.set(ROUTER, "method", "k_lora")
    drawn.shows(ROUTER, ROUTING, "Layers: not used by k_lora")
    drawn.set(ROUTER, "method", "b_lora")
    drawn.shows(ROUTER, ROUTING, "12 content, 12 style (b-lora: part of b_lora)")
    drawn.set(LOADER, "ckpt_name", "absent.safetensors")
    drawn.shows(ROUTER, ROUTING, "There is no file 'absent.safetensors' in checkpoints")
    unlink = "(id) => app.graph.getNodeById(id).disconnectInput(0)"
    drawn.comfy.evaluate(unlink, ROUTER)
    drawn.shows(ROUTER, ROUTING, "connect a model")


def test_the_table_of_presets_opens_by_keyboard(drawn):
    drawn.shows(ROUTER, ROUTING, "204 content")
    drawn.comfy.evaluate(CENTRE, ROUTER)
    assert "craft-release" not in drawn.seen(ROUTER, ROUTING)
    summary = drawn.page.locator(".craft-layers summary").first
    summary.focus()
    drawn.page.keyboard.press("Enter")
    drawn.shows(ROUTER, ROUTING, "craft-release")
    values = widget_values(drawn.comfy.saved())
    drawn.page.keyboard.press("Space")
    drawn.hides(ROUTER, ROUTING, "craft-release")
    assert values == widget_values(drawn.comfy.saved())


@ONCE
def test_cfg_1_is_warned_of_before_the_run(drawn):
    assert drawn.seen(SAMPLER, WARNINGS) == ""
    drawn.set(SAMPLER, "cfg", 1.0)
    drawn.shows(SAMPLER, WARNINGS, "At cfg 1")
    drawn.set(SAMPLER, "asymmetric", False)
    drawn.hides(SAMPLER, WARNINGS, "At cfg 1")
    drawn.set(SAMPLER, "asymmetric", True)
    drawn.shows(SAMPLER, WARNINGS, "choose role in the guidance menu")
    drawn.set(SAMPLER, "guidance", "role")
    drawn.hides(SAMPLER, WARNINGS, "At cfg 1")


@ONCE
def test_a_workflow_saved_before_the_guidance_menu_opens_with_the_values_it_had(drawn):
    old = demo()
    (node,) = (one for one in old["nodes"] if one["id"] == SAMPLER)
    node["inputs"] = [one for one in node["inputs"] if one["name"] != "guidance"]
    assert node["widgets_values"].pop() == "acfg/cfg"
    drawn.comfy.open_workflow(old, "older")
    assert widget_values(drawn.comfy.saved()) == widget_values(demo())


def test_saving_and_reloading_keeps_every_value(drawn):
    drawn.set(SCHEDULE, "shape", "window")
    drawn.set(SCHEDULE, "shape.content_end", 0.75)
    drawn.set(ROUTER, "layer_sets", "custom")
    drawn.set(ROUTER, "style_strength", 0.35)
    saved = json.loads(json.dumps(drawn.comfy.saved()))
    values = widget_values(saved)
    floors = widget_values(demo())[SCHEDULE][1:3]
    assert values[SCHEDULE] == ["window", 0, 0.75, 0.5, 1, *floors, "steps"]
    assert values[ROUTER][:6] == [PROMPT, *widget_values(demo())[ROUTER][1:4], 0.35,
                                  "custom"]  # fmt: skip
    assert None not in values[ROUTER] + values[SCHEDULE] + values[SAMPLER]
    drawn.comfy.open_workflow(saved, "reloaded")
    assert widget_values(drawn.comfy.saved()) == values
    drawn.shows(ROUTER, ROUTING, "zwx style")


@ONCE
def test_a_prompt_for_the_server_knows_nothing_of_the_drawings(drawn):
    output = drawn.comfy.evaluate("async () => (await app.graphToPrompt()).output")
    names = {name for node in output.values() for name in node["inputs"]}
    assert "prompt" in names and not {CURVES, ROUTING, WARNINGS} & names


def test_copies_keep_their_values_and_draw_their_own(drawn):
    for node, drawing in ((ROUTER, ROUTING), (SCHEDULE, CURVES), (SAMPLER, WARNINGS)):
        (copy,) = drawn.comfy.evaluate(COPY, node)
        values = widget_values(drawn.comfy.saved())
        assert values[copy] == values[node]
        if node == ROUTER:
            drawn.set(copy, "prompt", "a stone <c>")
            drawn.shows(copy, drawing, "a stone")
            assert "a stone" not in drawn.seen(node, drawing)


def test_undo_brings_every_value_back(drawn):
    before = widget_values(drawn.comfy.saved())
    drawn.comfy.evaluate(CAPTURE)
    drawn.set(ROUTER, "prompt", "a stone <c>")
    drawn.set(SCHEDULE, "shape", "sigmoid")
    drawn.comfy.evaluate(CAPTURE)
    drawn.shows(ROUTER, ROUTING, "a stone")
    drawn.comfy.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")
    drawn.shows(ROUTER, ROUTING, "a sks animal")
    assert widget_values(drawn.comfy.saved()) == before


def test_inside_a_subgraph_the_router_keeps_its_values_and_finds_its_model(drawn):
    before = widget_values(drawn.comfy.saved())[ROUTER]
    host, inner = drawn.comfy.evaluate(INTO_SUBGRAPH, ROUTER)
    drawn.shows(inner, ROUTING, "zwx style")
    drawn.shows(inner, ROUTING, "204 content, 204 style (all)")
    (definition,) = drawn.comfy.saved()["definitions"]["subgraphs"]
    assert widget_values(definition)[inner] == before
    drawn.comfy.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    assert drawn.seen(SAMPLER, WARNINGS) == ""  # it finds the Router inside


@ONCE
@pytest.mark.parametrize("palette", ["light", "dark"])
def test_the_drawings_take_the_colours_of_the_theme(drawn, nodes, palette):
    drawn.comfy.evaluate(
        "(name) => app.extensionManager.setting.set('Comfy.ColorPalette', name)", palette
    )
    drawn.set(ROUTER, "prompt", "<c>a sks animal</c> in zwx style")
    drawn.shows(ROUTER, ROUTING, "is off")
    drawn.comfy.evaluate(CENTRE, ROUTER)
    drawn.comfy.evaluate(TWO_FRAMES)
    drawn.comfy.keep_screenshot(f"drawings_{nodes}_{palette}")
    colours = "(name) => { const s = getComputedStyle(document.querySelector('.craft-words')); " \
        "return [s.color, s.backgroundColor].map((c) => c.match(/[\\d.]+/g).slice(0, 3)" \
        ".reduce((sum, part) => sum + Number(part) / 765, 0)) }"  # fmt: skip
    ink, paper = drawn.comfy.evaluate(colours, palette)
    assert abs(ink - paper) > 0.35 and (ink < paper) == (palette == "light")
    drawn.comfy.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")


@ONCE
def test_after_a_run_the_sampler_shows_who_acted_where_and_when(drawn, nodes):
    drawn.set(SAMPLER, "steps", 3)
    assert drawn.comfy.run() == ["execution_success", ""]
    shown = f"() => app.graph.getNodeById({SAMPLER}).imgs?.[0]?.naturalWidth === 720"
    images = f"() => app.nodeOutputs[{SAMPLER}].images.length"
    assert drawn.comfy.evaluate(images) == 1
    drawn.page.wait_for_function(shown)
    drawn.comfy.dismiss_alerts()
    drawn.comfy.keep_screenshot(f"drawings_{nodes}_run")


def test_what_a_run_reports_on_the_node_is_shown_as_it_is_written(drawn, nodes):
    drawn.set(ROUTER, "prompt", "<c>a sks animal</c>")
    drawn.set(SAMPLER, "steps", 1)
    assert drawn.comfy.run() == ["execution_success", ""]
    said = "The prompt has no <s>, so the style LoRA is off."
    drawn.shows(ROUTER, REPORT, said)

    drawn.set(ROUTER, "prompt", PROMPT)
    assert drawn.comfy.run() == ["execution_success", ""]
    _, content, _, strength, *_ = widget_values(demo())[ROUTER]
    said = f"\nLayer sets: all\ncontent {content}: strength {strength:g}"
    drawn.shows(ROUTER, REPORT, said)


@pytest.fixture
def fresh(comfy, live_server, nodes) -> Iterator[Drawn]:
    """The same demo in a new page, whose memory holds no other graph."""
    page = type(comfy).load(comfy.page.context.browser, live_server.url, comfy.artifacts)
    with page.drawing(nodes):
        page.open_workflow(demo(), DEMO.stem)
        yield Drawn(page)
    page.page.close()


def test_a_graph_that_is_loaded_again_and_again_is_not_held(fresh, nodes):
    of_the_host = (
        1 if nodes == "vue" else 0
    )  # it keeps each graph that it drew this way, without our pack too
    _, inner = fresh.comfy.evaluate(INTO_SUBGRAPH, ROUTER)
    fresh.shows(inner, ROUTING, "zwx style")
    fresh.comfy.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    fresh.comfy.evaluate(CAPTURE)
    saved = fresh.comfy.saved()
    for load in range(5):
        fresh.comfy.evaluate("(graph) => app.loadGraphData(graph, true, true, null)", saved)
        fresh.comfy.evaluate(TWO_FRAMES)
        if load == 1:
            most = routers_in_memory(fresh.page) + 3 * of_the_host
    held = fresh.comfy.until(lambda: routers_in_memory(fresh.page), lambda count: count <= most)
    assert held <= most


def test_the_pages_shortcuts_reach_it_from_an_opened_drawing(drawn):
    drawn.shows(ROUTER, ROUTING, "Layers")
    drawn.comfy.evaluate(CENTRE, ROUTER)
    heard = "() => { window.heard = []; " \
        "addEventListener('keydown', (event) => heard.push(event.key)) }"  # fmt: skip
    drawn.comfy.evaluate(heard)
    drawn.page.locator(".craft-layers summary").first.focus()
    drawn.page.keyboard.press("Enter")
    drawn.page.keyboard.press("Control+Shift+F9")  # a key that is no shortcut
    heard = drawn.comfy.evaluate("() => heard")
    assert "F9" in heard and "Enter" not in heard


@ONCE
def test_drawings_are_no_parameters_of_their_node(drawn):
    listed = f"""() => app.graph.getNodeById({ROUTER}).widgets
        .filter((widget) => widget.name.startsWith("craft_"))
        .map((widget) => widget.options.hideInPanel)"""
    assert drawn.comfy.evaluate(listed) == [True, True]


@ONCE
def test_a_menu_brings_back_what_was_set_under_its_entry_as_a_part_of_the_choice(drawn):
    for name, value in (
        ("layer_sets", "custom"),
        ("layer_sets.patterns", "content: up_blocks.0"),
        ("layer_sets", "all"),
        ("layer_sets", "custom"),
    ):
        drawn.set(ROUTER, name, value)
        drawn.comfy.evaluate(CAPTURE)
    assert drawn.comfy.evaluate(PATTERNS) == "content: up_blocks.0"
    steps = drawn.comfy.evaluate(STEPS)
    drawn.comfy.evaluate(CAPTURE)
    assert drawn.comfy.evaluate(STEPS) == steps
    drawn.comfy.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")
    assert widget_values(drawn.comfy.saved())[ROUTER][5] == "all"
    drawn.comfy.evaluate("() => app.extensionManager.command.execute('Comfy.Redo')")
    assert drawn.comfy.evaluate(PATTERNS) == "content: up_blocks.0"


def test_a_node_that_grows_by_what_it_draws_takes_no_step_and_keeps_its_size(drawn):
    drawn.shows(ROUTER, ROUTING, "204 content")
    drawn.comfy.evaluate(CENTRE, ROUTER)
    height = drawn.comfy.evaluate(HEIGHT)
    drawn.set(ROUTER, "prompt", "<c>a sks animal</c> in zwx style " * 12)
    drawn.comfy.evaluate(CAPTURE)
    steps = drawn.comfy.evaluate(STEPS)
    drawn.comfy.until(lambda: drawn.comfy.evaluate(HEIGHT), lambda now: now > height)
    grown = drawn.comfy.evaluate(HEIGHT)
    assert grown > height
    drawn.comfy.evaluate(CAPTURE)
    assert drawn.comfy.evaluate(STEPS) == steps
    drawn.comfy.open_workflow(drawn.comfy.saved(), "reopened")
    assert drawn.comfy.evaluate(HEIGHT) == grown
