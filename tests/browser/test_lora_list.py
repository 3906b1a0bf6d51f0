"""LoRA List in the page: rows are added, changed, ordered, saved, undone and run; and what the
menus of our other nodes say of the LoRAs that are chosen on them."""

from __future__ import annotations

import io
import itertools
import json
import operator
import re
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator
from scenes import RESTORED, TWO_FRAMES, once

from launcher.paths import ROOT

CONTENT = "craft_small_world_content.safetensors"
STYLE = "craft_small_world_style.safetensors"
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
PANEL = ".craft-panel.craft_rows"
LOAD = "(graph) => app.loadGraphData(graph)"
ONCE = once("drawn")
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
FIRST_PROMPT = "() => app.graph.nodes[0].widgets.find((one) => one.name === 'prompt').value"
INFO = re.compile("/craft_lora/lora_info")
PICTURE = "/experiment/models/preview/loras/0/a.safetensors"
SAID = {
    "kinds": {"LoRA": 170, "LoHa": 2}, "ranks": [4, 8], "text_encoder": 0, "family": "SDXL",
    "stated": ["base.safetensors"], "words": ["sks animal", "zwx style"], "picture": PICTURE,
}  # fmt: skip
FACTS = ("LoRA in 170 layers, LoHa in 2 layers, rank 4-8", "SDXL, base.safetensors")
WORDS = "<c>a sks animal</c> in <s>zwx style</s>"
WITH_WORDS = "<c>a sks animal</c> in <s>zwx style, sks animal</s>"
FOCUSED = "() => ['row', 'part'].map((name) => document.activeElement.dataset[name])"
NOTE_KEYS = """() => {
    window.keys = []
    window.addEventListener("keydown", ({ key }) => window.keys.push(key))
}"""
HAS_FOCUS = "(element) => element === document.activeElement"
fresh = itertools.count(0.31, 0.01)  # no run is one that the server has cached

# A list before a Router that samples one small picture.
GRAPH = """() => {
    const { graph } = app
    const add = (type, place, values = {}) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = place
        for (const [name, value] of Object.entries(values))
            node.widgets.find((one) => one.name === name).value = value
        return node
    }
    const ckpt_name = "craft_small_world.safetensors"
    const loader = add("CheckpointLoaderSimple", [0, 0], { ckpt_name })
    const list = add("CRAFTLoRAList", [0, 240])
    const prompt = "<c>a sks animal</c> in <s>zwx style</s>"
    const router = add(
        "CRAFTRouter", [560, 0], { prompt, content_lora: "none", style_lora: "none" })
    const negative = add("CLIPTextEncode", [0, 700])
    const latent = add("EmptyLatentImage", [0, 950], { width: 64, height: 64 })
    const sampler = add("CRAFTACFGKSampler", [1060, 0], { steps: 1 })
    const decode = add("VAEDecode", [1440, 0])
    const preview = add("PreviewImage", [1440, 160])
    loader.connect(0, router, "model")
    for (const node of [router, negative]) loader.connect(1, node, "clip")
    list.connect(0, router, "extra_branches")
    router.connect(0, sampler, "model")
    router.connect(1, sampler, "positive")
    negative.connect(0, sampler, "negative")
    latent.connect(0, sampler, "latent_image")
    sampler.connect(0, decode, "samples")
    loader.connect(2, decode, "vae")
    decode.connect(0, preview, "images")
}"""
VALUE = """() => {
    const list = app.graph.nodes.find((node) => node.type === "CRAFTLoRAList")
    return list.widgets.find((one) => one.name === "loras").value
}"""
SET = """(text) => (app.graph.nodes.find((node) => node.type === "CRAFTLoRAList")
    .widgets.find((one) => one.name === "loras").value = text)"""
REPORT = """() => app.graph.nodes.find((node) => node.type === "CRAFTRouter").widgets
    .find((one) => one.name === "craft_report").element.innerText"""
PROMPT = """() => app.graph.nodes.find((node) => node.type === "CRAFTRouter").widgets
    .find((one) => one.name === "prompt").value"""
REFRESH = "() => app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')"
UNDO = "() => app.extensionManager.command.execute('Comfy.Undo')"


@pytest.fixture(scope="module", params=["classic", "vue"])
def drawn(comfy, request) -> Iterator[str]:
    """Which way the page draws nodes."""
    with comfy.drawing(request.param):
        yield request.param


# One new node in a graph of its own id: the page keeps values by the ids of graph and node.
NEW = """(type) => {
    app.graph.clear()
    app.graph.id = crypto.randomUUID()
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    node.pos = [300, 100]
}"""

# The rows as they are drawn, read in one step: between two, the page may draw them anew.
ROWS = """(panels) => panels.flatMap((panel) =>
    [...panel.querySelectorAll(".craft-row")].map((_, row) => {
        const part = (name) => panel.querySelector(`[data-row="${row}"][data-part="${name}"]`)
        return [
            part("file").innerText, part("role").innerText, part("strength").value,
            part("on").checked,
        ]
    }))"""

# In one step: between two, the page may draw the box anew, without what was selected in it.
RIGHT_CLICK = """(box, words) => {
    const start = box.value.indexOf(words)
    box.focus()
    box.setSelectionRange(start, start + words.length)
    box.dispatchEvent(new MouseEvent(
        "contextmenu", { bubbles: true, cancelable: true, clientX: 700, clientY: 300 }))
}"""


def prompt_box(comfy, words: str = "sks") -> Locator:
    """The text box of a prompt with these words."""
    boxes = comfy.page.locator("textarea")
    find = """(all, words) => all.findIndex((one) =>
        one.value.includes(words) && one.checkVisibility())"""
    at = comfy.until(lambda: boxes.evaluate_all(find, words), lambda found: found >= 0)
    return boxes.nth(at)


class List:
    """A graph with a LoRA List, and what stands in its rows."""

    def __init__(self, comfy):
        self.comfy = comfy
        comfy.open_workflow({**EMPTY, "id": str(uuid.uuid4())}, "list")
        comfy.evaluate(GRAPH)
        comfy.fit()
        comfy.evaluate(TWO_FRAMES)

    @property
    def panel(self) -> Locator:
        return self.comfy.page.locator(PANEL)

    def part(self, row: int, name: str) -> Locator:
        return self.panel.locator(f'[data-row="{row}"][data-part="{name}"]')

    def rows(self) -> list[dict[str, Any]]:
        return json.loads(self.comfy.evaluate(VALUE))

    def shows(self, *rows: dict[str, Any]) -> None:
        """Wait until the list has these rows, in its text and as it is drawn."""
        assert self.comfy.until(self.rows, lambda now: now == list(rows)) == list(rows)
        drawn = [
            (row["lora"].removesuffix(".safetensors"), row["role"], f"{row['strength']:g}",
             row.get("on", True))
            for row in rows
        ]  # fmt: skip
        assert self.comfy.until(self.drawn, lambda now: now == drawn) == drawn

    def drawn(self) -> list[tuple[str, str, str, bool]]:
        return [tuple(row) for row in self.panel.evaluate_all(ROWS)]

    def choose(self, press: Locator, name: str) -> None:
        press.click()
        self.comfy.page.locator(".litecontextmenu .litemenu-entry", has_text=name).click()

    def add(self, name: str) -> None:
        self.choose(self.panel.get_by_role("button", name="Add LoRA"), name)

    def three(self) -> list[dict[str, Any]]:
        """Three rows, added as a user does."""
        made = []
        for name, role in ((CONTENT, "content"), (STYLE, "style"), (STYLE, "content")):
            self.add(name)
            made.append({"lora": name, "role": role, "strength": 1})
            self.shows(*made)
        return made


def test_files_that_come_and_go_are_known_after_the_page_is_refreshed(comfy, drawn):
    page, names = List(comfy), [STYLE]
    page.add(CONTENT)

    def is_missing() -> bool:
        return "craft-missing" in (page.part(0, "file").get_attribute("class") or "").split()

    comfy.page.route("**/models/loras", lambda route: route.fulfill(json=names))
    comfy.evaluate(REFRESH)
    assert comfy.until(is_missing, bool)
    names.append(CONTENT)
    comfy.evaluate(REFRESH)
    assert comfy.until(is_missing, operator.not_) is False
    comfy.page.unroute("**/models/loras")
    assert comfy.our_errors() == []


def test_rows_are_added_changed_ordered_saved_and_run(comfy, drawn):
    page = List(comfy)
    first, second, third = page.three()
    page.part(2, "up").click()
    page.shows(first, third, second)
    strength = round(next(fresh), 2)
    page.part(0, "strength").fill(str(strength))
    first = first | {"strength": strength}
    page.part(2, "on").click()
    second = second | {"on": False}
    page.shows(first, third, second)
    page.part(1, "role").click()
    third = third | {"role": "style"}
    page.part(1, "more").click()
    page.part(1, "layers").fill("output_blocks.1.1")
    third = third | {"layers": "output_blocks.1.1"}
    page.shows(first, third, second)
    comfy.keep_screenshot(f"lora_list_{drawn}")
    saved = comfy.saved()
    assert [comfy.evaluate(VALUE)] == next(
        node["widgets_values"] for node in saved["nodes"] if node["type"] == "CRAFTLoRAList"
    )
    comfy.open_workflow({**saved, "id": str(uuid.uuid4())}, "list again")
    comfy.evaluate(TWO_FRAMES)
    page.shows(first, third, second)
    comfy.keep_screenshot(f"lora_list_opened_{drawn}")
    assert comfy.run() == ["execution_success", ""]
    report = comfy.until(lambda: comfy.evaluate(REPORT), lambda said: "Method" in said)
    branches = [line for line in report.splitlines() if "acts on" in line]
    assert [CONTENT in branches[0], STYLE in branches[1]] == [True, True]
    assert len(branches) == 2  # the third is off
    assert report.count("own layers output_blocks.1.1") == 1
    assert comfy.our_errors() == []


def test_a_row_is_dragged_to_another_place(comfy, drawn):
    page = List(comfy)
    first, second, third = page.three()
    start, end = (page.part(at, "handle").bounding_box() for at in (0, 2))
    mouse = comfy.page.mouse
    mouse.move(start["x"] + 3, start["y"] + start["height"] / 2)
    mouse.down()
    mouse.move(end["x"] + 3, end["y"] + end["height"], steps=5)
    comfy.keep_screenshot(f"lora_list_dragged_{drawn}")
    mouse.up()
    page.shows(second, third, first)


def test_an_undo_takes_back_one_change(comfy, drawn):
    page = List(comfy)
    first, second, third = page.three()
    page.part(0, "remove").click()
    page.shows(second, third)
    page.part(1, "up").click()
    page.shows(third, second)
    for rows in ([second, third], [first, second, third], [first, second]):
        comfy.evaluate(UNDO)
        comfy.becomes(RESTORED, True)
        page.shows(*rows)
    page.part(0, "on").click()  # what is drawn after an undo acts
    page.shows(first | {"on": False}, second)


def test_a_text_that_is_no_list_is_shown_to_be_mended(comfy, drawn):
    page = List(comfy)
    broken = "[{'lora': 1}]"
    comfy.evaluate(SET, broken)
    box = page.part(0, "text")
    box.wait_for()
    assert box.input_value() == broken
    row = {"lora": CONTENT, "role": "content", "strength": 0.5}
    box.fill(json.dumps([row]))
    box.blur()
    page.shows(row)


@pytest.fixture
def told(comfy) -> Iterator[None]:
    """What the server says of every LoRA file, and the picture beside it."""
    picture = io.BytesIO()
    Image.new("RGB", (60, 40), "teal").save(picture, "PNG")
    shown = {"content_type": "image/png", "body": picture.getvalue()}
    comfy.page.route(INFO, lambda route: route.fulfill(json=SAID))
    comfy.page.route(f"**{PICTURE}", lambda route: route.fulfill(**shown))
    yield
    comfy.page.unroute(INFO)
    comfy.page.unroute(f"**{PICTURE}")


def test_a_row_tells_what_its_file_is_and_puts_its_words_into_the_prompt(comfy, drawn, told):
    page = List(comfy)
    row = {"lora": "a.safetensors", "role": "style", "strength": 1}  # the page keeps answers
    comfy.evaluate(SET, json.dumps([row]))
    page.shows(row)
    page.part(0, "more").click()
    for text in FACTS:
        page.panel.get_by_text(text).wait_for()
    page.panel.get_by_role("img").wait_for()
    comfy.keep_screenshot(f"lora_list_info_{drawn}")
    page.panel.get_by_role("button", name="Put into the prompt").click()
    comfy.becomes(PROMPT, WITH_WORDS)
    comfy.evaluate(UNDO)
    comfy.becomes(RESTORED, True)
    comfy.becomes(PROMPT, WORDS)


# A branch before a Router, each with a style LoRA; where on the screen the title of one is.
STYLES = """([type, words, lora]) => {
    app.graph.clear()
    app.graph.id = crypto.randomUUID()
    const add = (type, place, values) => {
        const node = LiteGraph.createNode(type)
        app.graph.add(node)
        node.pos = place
        for (const [name, value] of Object.entries(values))
            node.widgets.find((one) => one.name === name).value = value
        return node
    }
    const branch = add("CRAFTLoadLoRABranch", [250, 200], { lora, role: "style" })
    const router = add("CRAFTRouter", [650, 200], {
        prompt: words, content_lora: "none", style_lora: lora })
    branch.connect(0, router, "extra_branches")
    app.canvas.ds.reset()
    app.canvas.deselectAll()
    app.canvas.draw(true, true)
    const { pos } = type === router.type ? router : branch
    const box = app.canvas.canvas.getBoundingClientRect()
    return [box.x + pos[0] + 60, box.y + pos[1] - 15]
}"""
SETTLE = """() => {
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
    ;(tracker.captureCanvasState ?? tracker.checkState).call(tracker)
}"""
MENU = ".litecontextmenu .litemenu-entry, .p-contextmenu [role=menuitem]"


class Menu:
    """The menu of a node with a style LoRA, as a right-click on its title opens it."""

    def __init__(self, comfy, node: str, lora: str = "a.safetensors"):
        self.comfy = comfy
        comfy.open_workflow({**EMPTY, "id": str(uuid.uuid4())}, "styles")
        self.title = comfy.evaluate(STYLES, [node, WORDS, lora])
        comfy.evaluate(TWO_FRAMES)
        comfy.evaluate(SETTLE)

    def entry(self, words: str) -> Locator:
        return self.comfy.page.locator(MENU).filter(has_text=words)

    def press(self, words: str) -> None:
        def opened() -> bool:
            self.comfy.page.mouse.click(*self.title, button="right")
            self.comfy.evaluate(TWO_FRAMES)
            return self.entry(words).first.is_visible()

        assert self.comfy.until(opened, bool)
        self.comfy.keep_screenshot("lora_menu")
        self.entry(words).first.click()


@pytest.mark.parametrize("node", ["CRAFTRouter", "CRAFTLoadLoRABranch"])
def test_the_menu_of_a_node_tells_of_its_lora_and_puts_its_words_into_the_prompt(
    comfy, drawn, told, node
):
    menu = Menu(comfy, node)
    menu.press(": about a...")
    dialog = comfy.page.locator(".craft-dialog")
    for text in ("a.safetensors", *FACTS):
        dialog.get_by_text(text).first.wait_for()
    dialog.get_by_role("img").wait_for()
    comfy.keep_screenshot(f"lora_about_{node}_{drawn}")
    dialog.get_by_role("button", name="Put into the prompt").click()
    comfy.becomes(PROMPT, WITH_WORDS)
    dialog.wait_for(state="detached")
    comfy.evaluate(UNDO)
    comfy.becomes(RESTORED, True)
    comfy.becomes(PROMPT, WORDS)
    menu.press("trigger words of a into the prompt")
    comfy.becomes(PROMPT, WITH_WORDS)


@ONCE
@pytest.mark.parametrize(
    ("answer", "said"),
    [(SAID | {"words": []}, "names no trigger words"), ({"error": "It is damaged"}, "damaged")],
)
def test_a_file_without_words_changes_no_prompt_and_says_so(comfy, drawn, answer, said):
    comfy.page.route(INFO, lambda route: route.fulfill(json=answer))
    lora = f"{uuid.uuid4().hex}.safetensors"  # the page keeps answers
    Menu(comfy, "CRAFTRouter", lora).press("into the prompt")
    texts = comfy.until(comfy.alerts, lambda alerts: any(said in text for text in alerts))
    assert any(said in text for text in texts)
    assert comfy.evaluate(PROMPT) == WORDS
    comfy.dismiss_alerts()
    comfy.page.unroute(INFO)


# Each menu of our nodes that lists LoRA files, how often the node's own menu tells of the file
# chosen there, and how often it puts its words into a prompt.
TOLD_OF = """(lora) => Object.values(LiteGraph.registered_node_types)
    .filter(({ comfyClass }) => comfyClass?.startsWith("CRAFT"))
    .flatMap(({ comfyClass }) => {
        const node = LiteGraph.createNode(comfyClass)
        app.graph.add(node)
        const lists = node.widgets?.filter(({ options }) =>
            options?.values?.includes?.(lora)) ?? []
        return lists.map((one) => {
            for (const other of lists) other.value = other === one ? lora
                : other.options.values.find((value) => value === "none") ?? "none"
            const said = app.collectNodeMenuItems(node).map(({ content }) => content)
            const has = (words) => said.filter((text) => text.includes(words)).length
            return [comfyClass, one.name, has(": about "), has(" into the prompt")]
        })
    })"""
WITHOUT_PROMPT = {"CRAFTFuseToFile"}


@ONCE
def test_every_menu_of_lora_files_has_the_entries(comfy, drawn):
    comfy.open_workflow({**EMPTY, "id": str(uuid.uuid4())}, "all")
    found = comfy.evaluate(TOLD_OF, CONTENT)
    nodes = {node for node, *_ in found}
    assert nodes >= WITHOUT_PROMPT | {
        "CRAFTRouter", "CRAFTMethodSweep", "CRAFTXYGrid", "CRAFTFindBest", "CRAFTLoadLoRABranch",
    }  # fmt: skip
    assert len(found) == len({(node, name) for node, name, *_ in found}) >= 14
    wrong = [
        one for one in found if one[2:] != [1, 0 if one[0] in WITHOUT_PROMPT else 1]
    ]  # fmt: skip
    assert wrong == []


@ONCE
def test_a_file_that_cannot_be_read_is_told_in_its_row(comfy, drawn):
    comfy.page.route(INFO, lambda route: route.fulfill(json={"error": "It is damaged"}))
    page = List(comfy)
    row = {"lora": "b.safetensors", "role": "style", "strength": 1}
    comfy.evaluate(SET, json.dumps([row]))
    page.shows(row)
    page.part(0, "more").click()
    page.panel.get_by_text("It is damaged").wait_for()
    assert comfy.evaluate(FOCUSED) == ["0", "more"]  # what is told takes the keyboard from nothing
    comfy.page.unroute(INFO)


@ONCE
def test_the_keyboard_stays_at_what_it_presses(comfy, drawn):
    page = List(comfy)
    page.three()
    for row, name, then in (
        (0, "role", ["0", "role"]), (1, "on", ["1", "on"]), (0, "more", ["0", "more"]),
        (2, "up", ["1", "up"]), (1, "up", ["0", "down"]), (0, "down", ["1", "down"]),
        (2, "remove", ["1", "remove"]), (0, "remove", ["0", "remove"]),
    ):  # fmt: skip
        page.part(row, name).focus()
        comfy.page.keyboard.press("Space")
        assert comfy.evaluate(FOCUSED) == then
    comfy.page.keyboard.press("Space")
    assert page.panel.get_by_role("button", name="Add LoRA").evaluate(HAS_FOCUS)


@ONCE
def test_keys_that_choose_in_a_menu_of_a_row_are_no_shortcuts_of_the_page(comfy, drawn):
    page = List(comfy)
    page.add(CONTENT)
    page.part(0, "more").click()
    comfy.evaluate(NOTE_KEYS)
    page.part(0, "second").focus()
    for key in ("w", "c", "Delete", "Backspace"):
        comfy.page.keyboard.press(key)
    page.part(0, "more").focus()
    comfy.page.keyboard.press("F2")
    assert comfy.evaluate("() => window.keys") == ["F2"]
    assert len(page.rows()) == 1


def test_selected_words_of_a_prompt_are_marked_with_a_right_click(comfy, drawn):
    List(comfy)
    entries = comfy.page.locator(".litecontextmenu .litemenu-entry")

    def right_click(words: str, entry: str) -> int:
        """How often the menu that opens has the entry; not at all while the box is drawn anew."""
        prompt_box(comfy).evaluate(RIGHT_CLICK, words)
        return entries.filter(has_text=entry).count()

    for words, entry, expected in (
        ("animal", "Mark as style", "a sks <s>animal</s> in <s>zwx style</s>"),
        ("in", "Mark as content", "a sks <s>animal</s> <c>in</c> <s>zwx style</s>"),
        ("zwx", "Remove markers", "a sks <s>animal</s> <c>in</c> zwx style"),
    ):
        comfy.until(partial(right_click, words, entry), bool)
        entries.filter(has_text=entry).first.click()
        comfy.becomes(PROMPT, expected)
    comfy.keep_screenshot(f"marked_{drawn}")
    comfy.evaluate(UNDO)
    comfy.becomes(PROMPT, "a sks <s>animal</s> <c>in</c> <s>zwx style</s>")


@pytest.fixture
def marked_by_hand(comfy) -> Callable[[], None]:
    """Mark a word of the shown example prompt as style, with a right-click."""
    entries = comfy.page.locator(".litecontextmenu .litemenu-entry")

    def right_click() -> int:
        prompt_box(comfy, "A photo of").evaluate(RIGHT_CLICK, "photo")
        return entries.filter(has_text="Mark as style").count()

    def mark() -> None:
        comfy.until(right_click, bool)
        entries.filter(has_text="Mark as style").first.click()
        comfy.becomes(FIRST_PROMPT, "A <s>photo</s> of <c>sks dog</c> in <s>watercolor style</s>")

    return mark


@ONCE
@pytest.mark.parametrize("node", ["CRAFTXYGrid", "CRAFTFindBest"])
def test_words_of_every_marked_prompt_are_marked_with_a_right_click(
    comfy, drawn, node, marked_by_hand
):
    comfy.open_workflow({**EMPTY, "id": str(uuid.uuid4())}, "marked")
    comfy.evaluate(NEW, node)
    comfy.fit()
    marked_by_hand()


@ONCE
@pytest.mark.parametrize("file", BLUEPRINTS, ids=lambda file: file.stem)
def test_words_of_a_prompt_that_a_subgraph_shows_are_marked_too(comfy, drawn, file, marked_by_hand):
    comfy.open_workflow(json.loads(file.read_text("utf-8")), "marked")
    comfy.fit()
    marked_by_hand()
