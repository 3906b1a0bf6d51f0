"""Presets in the page: applied, taken back, saved, applied elsewhere, however nodes are drawn."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import NOTE_THE_END, RUN_LIMIT
from craft_lora_pack.client.workflow import read_workflow
from craft_lora_pack.craft_core.presets import SHIPPED, node_values
from scenes import RESTORED, TWO_FRAMES, once
from workflow_prompts import base_folder

from launcher.paths import ROOT

ONCE = once("drawn")
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
OWN = "craft_lora/presets"
USER_FILES = re.compile("/userdata")

# Two chains of a loader, a schedule, a Router and a sampler; the second has no schedule.
TWO_ROUTERS = """(sampler) => {
    const { graph } = app
    const add = (type, place) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = place
        return node
    }
    const loader = add("CheckpointLoaderSimple", [0, 0])
    const chain = (left, title) => {
        const router = add("CRAFTRouter", [left, 0])
        router.title = title
        const end = add(sampler, [left + 460, 0])
        loader.connect(0, router, "model")
        loader.connect(1, router, "clip")
        router.connect(0, end, "model")
        router.connect(1, end, "positive")
        return { router: Number(router.id), sampler: Number(end.id) }
    }
    const [first, second] = [chain(400, "First"), chain(1400, "Second")]
    const schedule = add("CRAFTTimestepSchedule", [0, 300])
    schedule.connect(0, graph.getNodeById(first.router), "schedule")
    return { first, second, schedule: Number(schedule.id) }
}"""
VALUES = """(id) => Object.fromEntries(app.graph.getNodeById(id).widgets
    .filter((one) => one.serialize !== false && one.type !== "craft_drawing")
    .map((one) => [one.name, one.value]))"""
SET = """([id, name, value]) => {
    const widget = app.graph.getNodeById(id).widgets.find((one) => one.name === name)
    widget.value = value
    widget.callback?.(value)
}"""
SETTLE = """() => {
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
    ;(tracker.captureCanvasState ?? tracker.checkState).call(tracker)
}"""
UNDO = "() => app.extensionManager.command.execute('Comfy.Undo')"


@pytest.fixture(scope="module", params=["classic", "vue"])
def drawn(comfy, request) -> Iterator[str]:
    """Which way the page draws nodes."""
    with comfy.drawing(request.param):
        yield request.param


class Graph:
    """Two Routers in the page, and the dialog of presets."""

    def __init__(self, comfy, sampler: str = "CRAFTACFGKSampler"):
        self.comfy, self.page = comfy, comfy.page
        comfy.open_workflow({**EMPTY, "id": str(uuid.uuid4())}, "presets")
        self.ids = comfy.evaluate(TWO_ROUTERS, sampler)
        comfy.fit()
        comfy.evaluate(SETTLE)

    def values(self, node: int) -> dict[str, Any]:
        return self.comfy.evaluate(VALUES, node)

    def all(self) -> list[dict[str, Any]]:
        ids = (*self.ids["first"].values(), *self.ids["second"].values(), self.ids["schedule"])
        return [self.values(one) for one in ids]

    def set(self, node: int, name: str, value: Any) -> None:
        self.comfy.evaluate(SET, [node, name, value])

    def open(self, which: int = 0) -> None:
        """By the button of a Router."""
        self.page.get_by_role("button", name="Presets...").nth(which).click()
        self.page.get_by_role("listbox", name="Presets").wait_for()

    def choose(self, label: str) -> None:
        self.page.get_by_role("listbox", name="Presets").select_option(label=label)

    def press(self, name: str) -> None:
        self.page.locator(".craft-dialog").get_by_role("button", name=name, exact=True).click()

    def apply(self, label: str, which: int = 0) -> str:
        """What the page says."""
        self.open(which)
        self.choose(label)
        self.press("Apply")
        said = self.comfy.until(self.comfy.alerts, lambda texts: any(texts))
        self.comfy.dismiss_alerts()
        return " ".join(said)

    def holds(self, node: int, wanted: dict[str, Any]) -> None:
        values = self.comfy.until(
            lambda: self.values(node), lambda values: wanted.items() <= values.items()
        )
        assert {name: values.get(name) for name in wanted} == wanted


@pytest.fixture
def own(live_server) -> Iterator[Any]:
    """The folder of one's own presets on the server, empty before and after."""
    folder = base_folder(live_server) / "user" / "default" / OWN
    for file in folder.glob("*"):
        file.unlink()
    yield folder
    for file in folder.glob("*"):
        file.unlink()


def test_a_preset_sets_the_nodes_and_one_undo_takes_it_back(comfy, drawn):
    graph = Graph(comfy)
    before = graph.all()
    said = graph.apply("Strong style")
    assert "Preset applied" in said and "left out" not in said
    values = node_values(SHIPPED["strong_style"])
    graph.holds(graph.ids["first"]["router"], dict(values.router))
    graph.holds(graph.ids["schedule"], dict(values.schedule))
    graph.holds(graph.ids["first"]["sampler"], dict(values.guidance))
    assert graph.all()[2:4] == before[2:4]  # the other Router and its sampler
    comfy.evaluate(TWO_FRAMES)
    comfy.evaluate(UNDO)
    comfy.becomes(RESTORED, True)
    assert comfy.until(graph.all, lambda now: now == before) == before


def test_ones_own_preset_is_saved_and_applied_to_another_router(comfy, drawn, own):
    graph = Graph(comfy)
    router, sampler = graph.ids["first"].values()
    for name, value in {"method": "k_lora", "method.pattern": "s*", "layer_sets": "custom",
                        "layer_sets.patterns": "content: middle_block", "content_strength": 0.8,
                        "style_strength": 0.35}.items():  # fmt: skip
        graph.set(router, name, value)
    graph.set(sampler, "guidance", "role")
    graph.set(sampler, "guidance.weight", 1.75)
    graph.set(sampler, "cfg", 4.5)
    graph.open()
    comfy.page.get_by_role("textbox", name="Name").fill("My own 水墨")
    graph.press("Save the present settings")
    comfy.until(lambda: [file.name for file in own.glob("*")], bool)
    comfy.keep_screenshot(f"presets_{drawn}")
    graph.press("Close")
    saved = json.loads((own / "My own 水墨.json").read_text("utf-8"))
    assert saved["method"]["pattern"] == "s*" and saved["guidance"]["weight"] == 1.75
    values = node_values(saved)
    said = graph.apply("My own 水墨", 1)
    assert "schedule cosine is left out" in said  # the second Router has none
    graph.holds(graph.ids["second"]["router"], dict(values.router))
    graph.holds(graph.ids["second"]["sampler"], dict(values.guidance))
    # What an entry had before does not come back over the preset's.
    graph.set(graph.ids["second"]["router"], "method.pattern", "s")
    comfy.evaluate(TWO_FRAMES)
    graph.apply("Balanced", 1)
    graph.apply("My own 水墨", 1)
    graph.holds(graph.ids["second"]["router"], dict(values.router))


@ONCE
def test_ones_own_presets_are_renamed_and_deleted_and_never_lost(comfy, drawn, own):
    graph = Graph(comfy)
    page = comfy.page
    graph.open()
    name = page.get_by_role("textbox", name="Name")
    for text in ("one", "two"):
        name.fill(text)
        graph.press("Save the present settings")
        comfy.until(lambda text=text: (own / f"{text}.json").exists(), bool)
    name.fill("two")
    graph.press("Save the present settings")
    page.get_by_text("There is a preset two already").wait_for()
    name.fill("a/b")
    graph.press("Save the present settings")
    page.get_by_text("This is no name for a preset").wait_for()
    graph.choose("one")
    name.fill("two")
    graph.press("Rename")
    page.get_by_text("There is a preset two already").wait_for()
    name.fill("three")
    graph.press("Rename")
    comfy.until(lambda: (own / "three.json").exists(), bool)
    graph.choose("two")
    graph.press("Delete")
    graph.choose("three")  # another one is not deleted at once
    graph.press("Delete")
    graph.choose("two")
    graph.press("Delete")
    assert (own / "two.json").exists()
    graph.press("Delete for good")
    comfy.until(lambda: not (own / "two.json").exists(), bool)
    assert [file.name for file in own.glob("*.json")] == ["three.json"]
    graph.choose("Balanced")
    for button in ("Rename", "Delete"):
        assert page.locator(".craft-dialog").get_by_role("button", name=button).is_disabled()
    comfy.keep_screenshot("presets_dialog")
    graph.press("Close")


@ONCE
def test_what_is_chosen_while_a_preset_is_renamed_stays_chosen(comfy, drawn, own):
    """The list that comes after it says what is there, not what the user meant."""
    graph, page, held = Graph(comfy), comfy.page, []
    own.mkdir(parents=True, exist_ok=True)
    for text in ("one", "two"):
        (own / f"{text}.json").write_text("{}")
    graph.open()
    presets = page.get_by_role("listbox", name="Presets")
    graph.choose("one")
    page.get_by_role("textbox", name="Name").fill("three")
    page.route(USER_FILES, lambda route: held.append(route) if route.request.method == "GET"
               else route.continue_())  # fmt: skip
    graph.press("Rename")
    comfy.until(lambda: held, bool)
    graph.choose("two")
    for route in held:
        route.continue_()
    page.unroute(USER_FILES)
    presets.get_by_role("option", name="three", exact=True).wait_for(state="attached")
    chosen = presets.input_value()
    graph.press("Close")
    assert chosen.endswith(":two")


@ONCE
def test_enter_in_the_name_saves_and_applies_nothing(comfy, drawn, own):
    graph = Graph(comfy)
    before = graph.all()
    graph.open()
    graph.choose("Strong style")
    name = comfy.page.get_by_role("textbox", name="Name")
    name.fill("entered")
    name.press("Enter")
    comfy.until(lambda: (own / "entered.json").exists(), bool)
    graph.press("Close")
    assert (own / "entered.json").exists() and graph.all() == before


@ONCE
def test_where_ones_own_cannot_be_read_the_shipped_are_there_and_it_is_said(comfy, drawn):
    graph = Graph(comfy)
    comfy.page.route(USER_FILES, lambda route: route.fulfill(status=500, body="<html>"))
    graph.open()
    comfy.page.get_by_text("no answer that can be read").wait_for()
    graph.choose("Balanced")
    graph.press("Close")
    comfy.page.unroute(USER_FILES)


@ONCE
def test_a_file_that_is_no_preset_changes_nothing_and_is_said(comfy, drawn, own):
    graph = Graph(comfy)
    before = graph.all()
    graph.open()
    comfy.page.locator(".craft-dialog input[type=file]").set_input_files(
        {"name": "wrong.json", "mimeType": "application/json", "buffer": b'{"cfg": "high"}'}
    )
    comfy.until(lambda: (own / "wrong.json").exists(), bool)
    graph.press("Close")
    assert "The preset's cfg is 'high'" in graph.apply("wrong")
    assert graph.all() == before


@ONCE
def test_a_preset_is_offered_in_the_routers_menu(comfy, drawn):
    graph = Graph(comfy)
    items = """(id) => app.extensionManager && app.extensions
        .find((one) => one.name === "craft_lora.presets")
        .getNodeMenuItems(app.graph.getNodeById(id)).map((one) => one.content)"""
    assert comfy.evaluate(items, graph.ids["first"]["router"]) == ["CRAFT presets..."]
    assert comfy.evaluate(items, graph.ids["first"]["sampler"]) == []


@ONCE
def test_what_no_node_takes_is_said(comfy, drawn):
    graph = Graph(comfy, "KSampler")
    said = graph.apply("Strong style", 1)
    assert "KSampler has standard guidance" in said
    graph.holds(graph.ids["second"]["router"], {"content_strength": 0.75, "style_strength": 0.75})


FIND = """(values) => {
    const find = app.graph.nodes.find((node) => node.type === "CRAFTFindBest")
    for (const [name, value] of Object.entries(values))
        find.widgets.find((one) => one.name === name).value = value
    const router = LiteGraph.createNode("CRAFTRouter")
    app.graph.add(router)
    router.title = "Mine"
    router.pos = [find.pos[0], find.pos[1] - 900]
    const layers = find.widgets.find((one) => one.name === "layer_sets").value
    return [Number(router.id), layers]
}"""
QUICK = {
    "steps": 1, "budget": 8, "methods": "direct", "guidances": "acfg", "schedules": "constant",
    "strengths": "0.35, 0.9",
}  # fmt: skip


@ONCE
def test_what_a_search_found_is_applied_with_one_click(comfy, drawn):
    workflow = read_workflow(ROOT / "workflows" / "find_best_small_world.json")
    comfy.open_workflow(workflow, "found")
    router, layer_sets = comfy.evaluate(FIND, QUICK)
    comfy.fit()
    assert comfy.run() == ["execution_success", ""]
    comfy.page.get_by_role("button", name="Apply to Mine").click()
    values = comfy.until(
        lambda: comfy.evaluate(VALUES, router), lambda now: now["method"] == "direct"
    )
    assert {values["content_strength"], values["style_strength"]} <= {0.35, 0.9}
    assert values["layer_sets"] == layer_sets
    comfy.keep_screenshot("found_applied")
    assert comfy.page.get_by_text("carries no routed LoRAs").count() == 0


@ONCE
def test_the_best_so_far_of_a_search_that_was_stopped_is_applied_with_one_click(comfy, drawn):
    workflow = read_workflow(ROOT / "workflows" / "find_best_small_world.json")
    comfy.open_workflow({**workflow, "id": str(uuid.uuid4())}, "stopped")
    router, _ = comfy.evaluate(FIND, {**QUICK, "budget": 400, "first_seed": 77})
    comfy.fit()
    comfy.evaluate(NOTE_THE_END)
    comfy.page.get_by_test_id("queue-button").click()
    report = comfy.page.locator(".craft-report")
    under_way = re.compile(r"^([3-9]|\d\d+) of at most .*best so far")
    report.filter(has_text=under_way).wait_for(timeout=RUN_LIMIT)
    comfy.evaluate("() => app.api.interrupt()")
    comfy.page.wait_for_function("() => window.ended", timeout=RUN_LIMIT)
    assert comfy.evaluate("() => window.ended[0]") == "execution_interrupted"
    report.filter(has_text=re.compile(r"^Stopped after \d+ of at most ")).wait_for()
    comfy.keep_screenshot("found_so_far")
    comfy.page.get_by_role("button", name="Apply to Mine").click()
    values = comfy.until(
        lambda: comfy.evaluate(VALUES, router), lambda now: now["method"] == "direct"
    )
    assert values["method"] == "direct"
    assert {values["content_strength"], values["style_strength"]} <= {0.35, 0.9}


def test_a_node_that_reads_weights_is_named_and_shown(comfy, drawn):
    graph = Graph(comfy)
    add = """(id) => {
        const router = app.graph.getNodeById(id)
        const file = (name) => router.widgets.find((one) => one.name === name)
        file("content_lora").value = "craft_small_world_content.safetensors"
        const save = LiteGraph.createNode("ModelSave")
        app.graph.add(save)
        save.pos = [900, 700]
        router.connect(0, save, "model")
        return Number(save.id)
    }"""
    save = comfy.evaluate(add, graph.ids["first"]["router"])
    line = comfy.page.get_by_text("reads weights")
    line.wait_for()
    colour = """(id) => {
        const { graph } = app
        const of = (one) => graph.getNodeById(one)?.inputs[0].link
        return [graph.links.get(of(id))?.color ?? null,
            graph.links.get(graph.nodes.find((one) => one.type === "CRAFTACFGKSampler")
                .inputs[0].link).color ?? null]
    }"""
    comfy.becomes(colour, ["#dea014", None], save)
    comfy.keep_screenshot(f"reads_weights_{drawn}")
    line.get_by_role("button", name="Show").click()
    comfy.becomes("() => Object.keys(app.canvas.selected_nodes).map(Number)", [save])
    graph.set(graph.ids["first"]["router"], "content_lora", "none")
    comfy.becomes(colour, [None, None], save)
    comfy.evaluate("() => app.canvas.deselectAll()")
