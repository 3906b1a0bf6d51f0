"""Every shipped workflow as a new user meets it: opened in the page, Run, and its pictures.

The demo is reached through the template browser. All run as they are shipped, with three
exceptions: the one whose models are too large for a test is opened only; the one whose model does
not ship gets the small world's files chosen in its menus, as a user would choose their own; and
those that train do so in few steps, but for `run.py test --all`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from craft_lora_pack.client.workflow import read_workflow
from PIL import Image
from scenes import CUT_OFF, MEASURED

from launcher.paths import ROOT
from launcher.run.environment import PINNED

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
DEMO = ROOT / "workflows" / "demo_small_world.json"
PACK = "CRAFT LoRA: Content + Style"
ABSENT = "craft_small_world_absent.safetensors"

FIND_BEST = ROOT / "workflows" / "find_best_small_world.json"
TOO_LARGE = ROOT / "workflows" / "wan22_two_experts.json"
FEW_STEPS = 4
FEW_SAMPLING_STEPS = 6  # of a picture in a grid

OWN_FILES = {
    "fusion_sdxl": {
        "ckpt_name": "craft_small_world.safetensors",
        "content_lora": "craft_small_world_content.safetensors",
        "style_lora": "craft_small_world_style.safetensors",
        "prompt": "<c>a sks animal</c> in <s>zwx style</s>",
        "width": 64,
        "height": 64,
    }
}

CHOOSE = """(values) => {
    const chosen = []
    for (const node of app.graph.nodes)
        for (const widget of node.widgets ?? [])
            if (widget.name in values) {
                widget.value = values[widget.name]
                widget.callback?.(widget.value)
                chosen.push(widget.name)
            }
    return chosen
}"""

# Train in few steps; how many nodes do.
TRAIN_SHORTLY = """(steps) => app.graph.nodes
    .filter(({ type }) => type.startsWith("CRAFTTrain") || type.startsWith("CRAFTLearn"))
    .flatMap((node) => node.widgets.filter(({ name }) => /^(method\\.)?steps$/.test(name)))
    .map((widget) => (widget.value = steps)).length"""

SAMPLE_SHORTLY = """(steps) => app.graph.nodes
    .flatMap((node) => node.widgets?.filter(({ name }) => name === "steps") ?? [])
    .map((widget) => (widget.value = steps)).length"""

SAVED_BY_NODE = """() => app.graph.nodes
    .filter((node) => node.type === "SaveImage")
    .map((node) => app.nodeOutputs[node.id]?.images ?? [])"""

# On the classic canvas a node holds its pictures; on Vue nodes they are elements of the page.
ALL_ARE_SHOWN = """() => app.graph.nodes
    .filter((node) => node.type === "SaveImage")
    .every((node) => {
        const drawn = document.querySelectorAll(`[data-node-id="${node.id}"] img`)
        const images = drawn.length ? [...drawn] : node.imgs ?? []
        return images.length && images.every((image) => image.naturalWidth > 0)
    })"""

# Pairs of nodes that cover each other, by the sizes that the page draws them in.
OVERLAPS = """() => {
    const title = LiteGraph.NODE_TITLE_HEIGHT
    const boxes = app.graph.nodes.map((node) => {
        const drawn = document.querySelector(`[data-node-id="${node.id}"]`)
        const height = drawn ? drawn.offsetHeight : node.size[1] + title
        return { node, x: node.pos[0], y: node.pos[1] - title, width: node.size[0], height }
    })
    const cover = (one, other) =>
        one.x < other.x + other.width && other.x < one.x + one.width &&
        one.y < other.y + other.height && other.y < one.y + one.height
    return boxes.flatMap((one, at) => boxes.slice(at + 1)
        .filter((other) => cover(one, other))
        .map((other) => `${one.node.id} ${one.node.type} and ${other.node.id} ${other.node.type}`))
}"""

# Whether reports are shown, each as tall as its text or with a scroll bar.
REPORTS_WITH_THEIR_BARS = """() => {
    const shown = [...document.querySelectorAll(".craft-report")].filter((one) => one.clientHeight)
    return shown.length > 0 && shown.every((one) => one.scrollHeight <= one.clientHeight + 1 ||
        one.offsetWidth >= one.clientLeft + one.clientWidth + 8)
}"""

# What a run shows as text; a long one has the page's own scroll bar.
SHOWN_TEXTS = "() => Object.values(app.nodeOutputs).flatMap(({ text }) => text ?? [])"

# The titles for which the classic canvas has no room, as it draws them: each node in view, and so
# large that it is drawn with its words.
CUT_TITLES = """() => {
    const [drawn, { fillText }] = [[], CanvasRenderingContext2D.prototype]
    CanvasRenderingContext2D.prototype.fillText = function (text, ...others) {
        drawn.push(String(text))
        return fillText.call(this, text, ...others)
    }
    const { ds } = app.canvas
    ds.scale = 1
    for (const { pos } of app.graph.nodes) {
        [ds.offset[0], ds.offset[1]] = [100 - pos[0], 100 - pos[1]]
        app.canvas.draw(true, true)
    }
    CanvasRenderingContext2D.prototype.fillText = fillText
    const whole = new Set(drawn)
    return app.graph.nodes.map((node) => node.getTitle()).filter((title) => !whole.has(title))
}"""

MENU = "layer_sets"  # it has inputs of its own, and the template's value is not its first entry
MENUS_VALUE = """([id, name]) =>
    app.graph.getNodeById(id).widgets.find((one) => one.name === name).value"""
SET_MENU = """([id, name, value]) => {
    app.graph.getNodeById(id).widgets.find((one) => one.name === name).value = value
}"""


def run_to_pictures(comfy, live_server, name: str) -> None:
    """Press Run; every Save Image must show pictures in the page, none of a single colour."""
    assert comfy.run() == ["execution_success", ""]
    comfy.page.wait_for_function(ALL_ARE_SHOWN)
    comfy.dismiss_alerts()
    if of_the_pinned_host(live_server):  # the page of an older host draws nodes in other sizes
        assert comfy.evaluate(OVERLAPS) == []
    assert cut_off_by_a_run(comfy) == []
    comfy.keep_screenshot(f"{name}_run")
    by_node = comfy.evaluate(SAVED_BY_NODE)
    assert by_node and all(by_node)
    for item in (item for items in by_node for item in items):
        assert is_a_picture(live_server.server.client.fetch(item))
    assert comfy.our_errors() == []


def cut_off_by_a_run(comfy) -> list[Any]:
    """The boxes whose texts are not whole beside what the run shows, other than what it says."""
    shown = comfy.evaluate(SHOWN_TEXTS)
    return [box for box in comfy.evaluate(CUT_OFF) if box[0] not in shown]


def of_the_pinned_host(live_server) -> bool:
    stats = live_server.server.client.get_json("/system_stats")
    return stats["system"]["comfyui_version"] == PINNED.version


def is_a_picture(content: bytes) -> bool:
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    return len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 16


def trains(path: Path) -> bool:
    """Whether the workflow trains."""
    kinds = [node["type"] for node in read_workflow(path)["nodes"]]
    return any(kind.startswith(("CRAFTTrain", "CRAFTLearn")) for kind in kinds)


def draws_a_grid(path: Path) -> bool:
    """Whether the workflow samples a picture for each of many settings."""
    kinds = {node["type"] for node in read_workflow(path)["nodes"]}
    return bool(kinds & {"CRAFTMethodSweep", "CRAFTXYGrid", "CRAFTFindBest"})


TRAINED = [path for path in WORKFLOWS if trains(path)]
GRIDS = [path for path in WORKFLOWS if draws_a_grid(path)]


def choose(comfy, values: dict[str, Any]) -> None:
    assert set(comfy.evaluate(CHOOSE, values)) == values.keys()


@pytest.fixture
def vue_nodes(comfy) -> Iterator[None]:
    """Nodes that grow with what a run shows on them; the classic canvas is the page's default."""
    with comfy.drawing("vue"):
        yield


def open_with_room_for_its_texts(comfy, path: Path) -> None:
    """Open a workflow; each text must have a box as tall as itself."""
    comfy.open_workflow(read_workflow(path), path.stem)
    comfy.page.wait_for_function(MEASURED)
    comfy.becomes(CUT_OFF, [])


RUNNING = [path for path in WORKFLOWS if path != TOO_LARGE]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_title_of_a_workflow_has_room_on_the_classic_canvas(comfy, path: Path):
    comfy.open_workflow(read_workflow(path), path.stem)
    comfy.dismiss_alerts()
    comfy.becomes(CUT_TITLES, [])


@pytest.mark.parametrize("path", RUNNING, ids=lambda path: path.stem)
def test_a_workflow_runs_from_the_page_to_its_pictures(comfy, live_server, vue_nodes, path: Path):
    open_with_room_for_its_texts(comfy, path)
    choose(comfy, OWN_FILES.get(path.stem, {}))
    assert (comfy.evaluate(TRAIN_SHORTLY, FEW_STEPS) > 0) == (path in TRAINED)
    if path in GRIDS:
        assert comfy.evaluate(SAMPLE_SHORTLY, FEW_SAMPLING_STEPS) > 0
    run_to_pictures(comfy, live_server, path.stem)


def test_a_workflow_whose_models_are_not_there_opens_with_room_for_every_node(comfy, vue_nodes):
    open_with_room_for_its_texts(comfy, TOO_LARGE)
    comfy.dismiss_alerts()
    assert comfy.evaluate(OVERLAPS) == []
    comfy.keep_screenshot(TOO_LARGE.stem)
    assert comfy.our_errors() == []


def test_a_menu_with_inputs_of_its_own_shows_what_it_is_set_to(comfy, vue_nodes):
    """By the workflow, by a script and by hand."""
    comfy.open_workflow(read_workflow(FIND_BEST), FIND_BEST.stem)
    comfy.dismiss_alerts()
    (node,) = (n["id"] for n in read_workflow(FIND_BEST)["nodes"] if n["type"] == "CRAFTFindBest")
    menu = comfy.page.locator(f'[data-node-id="{node}"] [role=combobox][aria-label={MENU}]')

    def shows(entry: str) -> None:
        assert comfy.until(menu.inner_text, lambda shown: shown == entry) == entry
        assert comfy.evaluate(MENUS_VALUE, [node, MENU]) == entry

    shows("all")
    comfy.evaluate(SET_MENU, [node, MENU, "duolora-prior"])
    shows("duolora-prior")
    menu.click()
    comfy.page.get_by_role("option", name="b-lora", exact=True).click()
    shows("b-lora")


@pytest.mark.sweep
@pytest.mark.parametrize("path", [*TRAINED, *GRIDS], ids=lambda path: path.stem)
def test_a_long_workflow_runs_as_it_is_shipped(comfy, live_server, vue_nodes, path: Path):
    comfy.open_workflow(read_workflow(path), path.stem)
    run_to_pictures(comfy, live_server, f"{path.stem}_whole")


def test_a_new_user_gets_from_the_template_browser_to_a_saved_picture(comfy, live_server):
    comfy.dismiss_alerts()
    comfy.errors.clear()
    page = comfy.page
    page.get_by_role("button", name="Templates").click()
    page.get_by_text(PACK).first.click()
    for path in WORKFLOWS:
        card = page.get_by_test_id(f"template-workflow-{path.stem}")
        card.scroll_into_view_if_needed()
        title, sentence = (card.locator(part).inner_text() for part in ("h3", "p"))
        assert title and sentence.endswith(".") and path.stem not in (title, sentence)
        thumbnail = card.locator("img").first
        assert thumbnail.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    comfy.keep_screenshot("template_browser")

    page.get_by_test_id(f"template-workflow-{DEMO.stem}").click()
    count = len(read_workflow(DEMO)["nodes"])
    page.wait_for_function("(count) => app.graph.nodes.length === count", arg=count)
    page.get_by_test_id("template-workflows-content").wait_for(state="detached")
    run_to_pictures(comfy, live_server, "from_template_browser")
    comfy.becomes(REPORTS_WITH_THEIR_BARS, True)
    assert [one for one in comfy.evaluate(CUT_OFF) if "Method: " in one[0]] == []
    assert [text for text in comfy.alerts() if "small demo model" in text] == []


def test_a_workflow_whose_demo_model_is_not_there_says_how_to_get_it(comfy):
    workflow = read_workflow(DEMO)
    (loader,) = (n for n in workflow["nodes"] if n["type"] == "CheckpointLoaderSimple")
    loader["widgets_values"] = [ABSENT]
    comfy.open_workflow(workflow, "absent")
    (said,) = [text for text in comfy.alerts() if "small demo model" in text]
    assert ABSENT in said and "python run.py small-world add" in said
    comfy.keep_screenshot("missing_demo_model")
    comfy.dismiss_alerts()
