"""LoRA List in the page: rows are added, changed, ordered, saved, undone and run."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator
from scenes import RESTORED, TWO_FRAMES

CONTENT = "craft_small_world_content.safetensors"
STYLE = "craft_small_world_style.safetensors"
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
PANEL = ".craft-panel.craft_rows"
LOAD = "(graph) => app.loadGraphData(graph)"
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
    const loader = add("CheckpointLoaderSimple", [0, 0], { ckpt_name: "craft_small_world.safetensors" })
    const list = add("CRAFTLoRAList", [0, 240])
    const router = add("CRAFTRouter", [560, 0], {
        prompt: "<c>a sks animal</c> in <s>zwx style</s>", content_lora: "none", style_lora: "none" })
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
REPORT = """() => app.graph.nodes.find((node) => node.type === "CRAFTRouter").widgets
    .find((one) => one.name === "craft_report").element.innerText"""
UNDO = "() => app.extensionManager.command.execute('Comfy.Undo')"


@pytest.fixture(scope="module", params=["classic", "vue"])
def drawn(comfy, request) -> Iterator[str]:
    """Which way the page draws nodes."""
    with comfy.drawing(request.param):
        yield request.param


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
        assert self.comfy.until(self.drawn, lambda now: len(now) == len(rows)) == [
            (row["lora"].removesuffix(".safetensors"), row["role"], f"{row['strength']:g}",
             row.get("on", True))
            for row in rows
        ]  # fmt: skip

    def drawn(self) -> list[tuple[str, str, str, bool]]:
        lines = range(self.panel.locator(".craft-row").count())
        return [
            (
                self.part(at, "file").inner_text(), self.part(at, "role").inner_text(),
                self.part(at, "strength").input_value(), self.part(at, "on").is_checked(),
            )
            for at in lines
        ]  # fmt: skip

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
    comfy.evaluate(
        """(text) => (app.graph.nodes.find((node) => node.type === "CRAFTLoRAList")
            .widgets.find((one) => one.name === "loras").value = text)""",
        broken,
    )
    box = page.part(0, "text")
    box.wait_for()
    assert box.input_value() == broken
    row = {"lora": CONTENT, "role": "content", "strength": 0.5}
    box.fill(json.dumps([row]))
    box.blur()
    page.shows(row)
