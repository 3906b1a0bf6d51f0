"""XY Grid in the page: its cells while it runs, and a click that sets the Router beside it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import NOTE_THE_END, RUN_LIMIT
from craft_lora_pack.client.workflow import read_workflow
from scenes import RESTORED, TWO_FRAMES

from launcher.paths import ROOT

WORKFLOW = ROOT / "workflows" / "xy_small_world.json"
SMALL = {"x_axis": "strength: 0.25, 0.75", "y_axis": "method: direct, k_lora", "steps": 2}

# A small grid, and nothing else that runs; the ids of the grid, the Router and its sampler.
PREPARE = """(values) => {
    const one = (type) => app.graph.findNodesByType(type)[0]
    for (const type of ["SaveImage", "ImageScaleBy", "VAEDecode"])
        for (const node of app.graph.findNodesByType(type)) app.graph.remove(node)
    const grid = one("CRAFTXYGrid")
    for (const [name, value] of Object.entries(values))
        grid.widgets.find((widget) => widget.name === name).value = value
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
    ;(tracker.captureCanvasState ?? tracker.checkState).call(tracker)
    return ["CRAFTXYGrid", "CRAFTRouter", "CRAFTACFGKSampler"].map((type) => Number(one(type).id))
}"""
VALUES = """(ids) => ids.map((id) => Object.fromEntries(app.graph.getNodeById(id).widgets
    .filter((one) => one.serialize !== false && one.type !== "craft_drawing")
    .map((one) => [one.name, one.value])))"""
# From now on, what the page is told of the grid.
NOTE_WHAT_IS_TOLD = """() => {
    if (!window.told) app.api.addEventListener("craft_lora.notice", ({ detail }) =>
        window.told.push([detail.text, detail.grid.cells.length]))
    window.told = []
}"""
# A press that begins on a cell is none if the cell is another element when it ends.
MARK = """() => document.querySelectorAll(".craft-cells button")
    .forEach((one) => { one.marked = true })"""
MARKED = """() => [...document.querySelectorAll(".craft-cells button")]
    .filter((one) => one.marked).length"""
NARROW = "(id) => { const node = app.graph.getNodeById(id); node.setSize([380, node.size[1]]) }"
WIDER = """() => [...document.querySelectorAll(".craft-cells")]
    .map((box) => box.scrollWidth - box.clientWidth)"""
ALL_CELLS = "(count) => document.querySelectorAll('.craft-cells button').length === count"
# Note when the page's socket is back; none is let back before `letBack` where it is to stay away.
CUT_OFF = """(away) => {
    const Real = window.WebSocket
    window.back = false
    app.api.addEventListener("reconnected", () => { window.back = true }, { once: true })
    if (away)
        window.WebSocket = function () { return new Real("ws://127.0.0.1:9/") }
    window.letBack = () => { window.WebSocket = Real }
}"""
NOTHING_RUNS = """async () => {
    const { queue_running, queue_pending } = await (await app.api.fetchApi("/queue")).json()
    return !queue_running.length && !queue_pending.length
}"""
REPORT = """(id) => app.graph.getNodeById(id).widgets
    .find((one) => one.name === "craft_report").element.innerText"""
UNDO = "() => app.extensionManager.command.execute('Comfy.Undo')"
NO_ROUTER = "(id) => app.graph.remove(app.graph.getNodeById(id))"


SEEDS = {"classic": 11, "vue": 12}


@pytest.fixture(params=["classic", pytest.param("vue", marks=pytest.mark.sweep)])
def drawn(comfy, request) -> Iterator[str]:
    with comfy.drawing(request.param):
        yield request.param


def opened(comfy, seed: int, **values: Any) -> list[int]:
    """A workflow whose grid never ran before. values: of its inputs."""
    comfy.open_workflow({**read_workflow(WORKFLOW), "id": str(uuid.uuid4())}, "grid")
    ids = comfy.evaluate(PREPARE, {**SMALL, "seed": seed, **values})
    comfy.fit()
    return ids


def test_cells_come_one_by_one_and_a_click_on_one_is_undone_in_one_step(comfy, drawn):
    seed = SEEDS[drawn]
    _, router, sampler = opened(comfy, seed)
    comfy.evaluate(NOTE_WHAT_IS_TOLD)
    assert comfy.run() == ["execution_success", ""]

    told = comfy.evaluate("() => window.told")
    assert sum(new for _, new in told) == 4
    texts = [text for text, _ in told]
    assert any(text.startswith("cell 2 of 4") for text in texts)
    assert texts[-1] == "4 cells are done."
    cells = comfy.page.locator(".craft-cells button")
    comfy.until(cells.count, lambda count: count == 4)
    assert cells.count() == 4
    comfy.keep_screenshot(f"xy_grid_{drawn}")

    def both() -> list[dict[str, Any]]:
        return comfy.evaluate(VALUES, [router, sampler])

    before = both()
    cell = comfy.page.get_by_role("button", name="k_lora; strength 0.75")
    cell.focus()
    comfy.page.keyboard.press("Enter")  # as a click, from the keyboard
    set_to = {"method": "k_lora", "content_strength": 0.75, "style_strength": 0.75}
    now, behind = comfy.until(both, lambda values: set_to.items() <= values[0].items())
    assert set_to.items() <= now.items(), json.dumps(now)
    assert {name: behind[name] for name in ("guidance", "cfg", "seed")} == {
        "guidance": "acfg/cfg", "cfg": 3, "seed": seed,
    }  # fmt: skip
    comfy.evaluate(TWO_FRAMES)
    comfy.evaluate(UNDO)
    comfy.becomes(RESTORED, True)
    assert comfy.until(both, lambda values: values == before) == before

    comfy.until(cells.count, lambda count: count == 4)  # an undo makes new nodes
    comfy.dismiss_alerts()
    comfy.evaluate(NO_ROUTER, router)
    cells.first.click()
    comfy.page.get_by_text("There is no Router in this workflow.").wait_for()
    assert comfy.our_errors() == []


def test_pictures_that_are_wider_than_the_node_shrink_into_it(comfy, drawn):
    wide = {"cell": 256, "x_axis": "strength: 0.2, 0.5, 1", "y_axis": "method: direct"}
    grid, *_ = opened(comfy, 400 + SEEDS[drawn], **wide)
    comfy.evaluate(NARROW, grid)
    assert comfy.run() == ["execution_success", ""]
    cells = comfy.page.locator(".craft-cells button")
    comfy.until(cells.count, lambda count: count == 3)
    assert comfy.until(lambda: comfy.evaluate(WIDER), lambda widths: widths == [0]) == [0]


def test_a_page_that_is_loaded_again_shows_the_cells_and_a_click_on_one_sets_the_router(
    comfy, drawn
):
    grid, router, _ = opened(comfy, 200 + SEEDS[drawn])
    assert comfy.run() == ["execution_success", ""]
    cells = comfy.page.locator(".craft-cells button")
    comfy.until(cells.count, lambda count: count == 4)
    comfy.reload()
    comfy.until(cells.count, lambda count: count == 4)
    assert cells.count() == 4
    comfy.becomes(REPORT, "4 cells are done.", grid)
    comfy.keep_screenshot(f"xy_grid_reloaded_{drawn}")
    comfy.page.get_by_role("button", name="k_lora; strength 0.25").click()
    set_to = {"method": "k_lora", "content_strength": 0.25, "style_strength": 0.25}
    (now,) = comfy.until(
        lambda: comfy.evaluate(VALUES, [router]), lambda values: set_to.items() <= values[0].items()
    )
    assert set_to.items() <= now.items(), json.dumps(now)
    assert comfy.our_errors() == []


def test_a_page_that_is_loaded_again_shows_the_cells_of_a_grid_that_was_stopped(comfy, drawn):
    grid, *_ = opened(comfy, 300 + SEEDS[drawn])
    cells = comfy.page.locator(".craft-cells button")
    comfy.evaluate(NOTE_THE_END)
    comfy.evaluate("() => void app.queuePrompt(0)")
    comfy.until(cells.count, bool)
    comfy.evaluate("() => app.api.interrupt()")
    comfy.page.wait_for_function("() => window.ended")
    assert comfy.evaluate("() => window.ended[0]") == "execution_interrupted"
    count = cells.count()
    assert 1 <= count < 4
    said = f"Stopped: {count} of 4 cells are done. Run goes on from there."
    comfy.becomes(REPORT, said, grid)  # the button to stop it is away
    comfy.reload()
    comfy.becomes(REPORT, said, grid)
    comfy.until(cells.count, lambda now: now == count)
    assert cells.count() == count


def test_a_page_that_is_loaded_again_while_a_grid_runs_shows_its_cells_and_those_that_come(
    comfy, drawn
):
    grid, *_ = opened(comfy, 400 + SEEDS[drawn], steps=60)  # for longer than the page loads
    cells = comfy.page.locator(".craft-cells button")
    comfy.evaluate("() => void app.queuePrompt(0)")
    comfy.until(cells.count, bool)
    assert cells.count() < 4
    comfy.reload()
    comfy.evaluate(NOTE_WHAT_IS_TOLD)
    comfy.page.wait_for_function(ALL_CELLS, arg=4, timeout=RUN_LIMIT)
    assert cells.count() == 4
    comfy.becomes(REPORT, "4 cells are done.", grid)
    assert comfy.evaluate("() => window.told.at(-1)[0]") == "4 cells are done."
    assert comfy.our_errors() == []


@pytest.mark.parametrize("ends", ["after", "before"])
def test_a_page_that_is_cut_off_while_a_grid_runs_shows_all_its_cells_in_the_end(
    comfy, drawn, ends
):
    """ends: the run, after the page is back or before."""
    grid, *_ = opened(comfy, 700 + SEEDS[drawn] + 10 * (ends == "before"), steps=40)
    cells = comfy.page.locator(".craft-cells button")
    comfy.evaluate(CUT_OFF, ends == "before")
    comfy.evaluate("() => void app.queuePrompt(0)")
    comfy.until(cells.count, bool)
    comfy.evaluate("() => app.api.socket.close()")
    if ends == "before":
        comfy.page.wait_for_function(NOTHING_RUNS, timeout=RUN_LIMIT)
        assert cells.count() < 4
        comfy.evaluate("() => window.letBack()")
    comfy.page.wait_for_function("() => window.back", timeout=RUN_LIMIT)
    assert cells.count()
    comfy.page.wait_for_function(ALL_CELLS, arg=4, timeout=RUN_LIMIT)
    comfy.becomes(REPORT, "4 cells are done.", grid)
    assert comfy.our_errors() == []


def test_cells_that_are_there_stay_where_more_come(comfy, drawn):
    opened(comfy, 100 + SEEDS[drawn])
    cells = comfy.page.locator(".craft-cells button")
    comfy.evaluate("() => void app.queuePrompt(0)")
    comfy.until(cells.count, bool)
    comfy.evaluate(MARK)
    marked = comfy.evaluate(MARKED)
    comfy.until(cells.count, lambda count: count == 4)
    assert 1 <= marked == comfy.evaluate(MARKED)
