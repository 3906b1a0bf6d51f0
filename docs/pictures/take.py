"""Take pictures of the page: python run.py pictures starts this, with the page's address, the
browser's path and the pictures wanted (none: all).

scenes.json lists the scenes. `workflow` is opened, `files` are there, empty, for its menus to
offer, `set` gives widgets (NODE.WIDGET) other values, `run` presses Run (true) or runs some output
nodes and what they need (ids), `press` is a button of a node. `graph` is a file for the whole graph
and the scale it is drawn at. `nodes` are the help pages' pictures, each of one node, or of one and
those below it that show what it gives; `sizes` are nodes' sizes in these, where they are not the
workflow's, and `colours` how many they have, where it is not 256. Notes are left out.
"""

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HELP = ROOT / "web" / "docs" / "pictures"
SCREEN = {"width": 1800, "height": 2000}
SHARPNESS = 1.5  # pixels of a picture for one of the page
CORNER = (60, 60)  # where on the screen the picture begins, in pixels of the page
MARGIN = 10  # around the nodes, in pixels of the page
GAP = 30  # between two nodes of a help page's picture
COLOURS = 256
LIMIT = 600_000  # milliseconds
STILL = 0.6  # seconds without a change, after which the page has drawn
AWAY = 20_000  # from the graph and from each other, where nodes stand alone

READY = (
    "window.app?.canvas?.graph && window.LiteGraph"
    " && Object.keys(LiteGraph.registered_node_types).length > 50"
)
OPEN = """([graph, name]) =>
    graph.nodes ? app.loadGraphData(graph, true, true, name) : app.loadApiJson(graph, name)"""
SET = """([id, name, value]) => {
    const widget = app.graph.getNodeById(id).widgets.find((widget) => widget.name === name)
    widget.value = value
    widget.callback?.(value)
}"""
RUN = """(ids) => {
    window.ended = null
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(kind, (event) => {
            window.ended ??= `${kind} ${event.detail.exception_message ?? ""}`
        })
    app.queuePrompt(0, 1, ids ?? undefined).then((queued) => {
        if (!queued) window.ended = "refused"
    })
}"""
LEAVE_OUT_NOTES = """() => app.graph.nodes
    .filter((node) => /Note$/.test(node.type))
    .forEach((node) => app.graph.remove(node))"""
ALL_IDS = "() => app.graph.nodes.map((node) => node.id)"
LOOK_AT = """([x, y, scale, left, top]) => {
    app.canvas.deselectAll?.()
    app.canvas.ds.scale = scale
    app.canvas.ds.offset[0] = left / scale - x
    app.canvas.ds.offset[1] = top / scale - y
    app.canvas.setDirty(true, true)
}"""
PUT = "([id, x, y]) => { app.graph.getNodeById(id).pos = [x, y] }"
MOVE_DOWN = """([id, by]) => {
    const node = app.graph.getNodeById(id)
    node.pos = [node.pos[0], node.pos[1] + by]
}"""
RESIZE = "([id, size]) => { app.graph.getNodeById(id).setSize(size) }"
NO_GRID = "() => { app.canvas.background_image = null }"
WHERE = """() => [Math.min(...app.graph.nodes.map((node) => node.pos[0])),
    Math.min(...app.graph.nodes.map((node) => node.pos[1]))]"""


class Photographer:
    """The page, and how to get pictures out of it."""

    def __init__(self, page: Page):
        self.page = page

    def take(self, scene: dict[str, Any], wanted: set[str]) -> None:
        """The pictures of one scene that are wanted (a file's stem; none: all)."""
        graph = scene.get("graph", {})
        nodes = scene.get("nodes", {})
        chosen = {name for name in [*nodes, *map(_stem, graph)] if not wanted or name in wanted}
        if not chosen:
            return
        self._set_up(scene)
        for file, scale in graph.items():
            if _stem(file) in chosen:
                self._take_graph(ROOT / file, scale)
        for node, size in scene.get("sizes", {}).items():
            self.page.evaluate(RESIZE, [int(node), size])
        for name, ids in nodes.items():
            if name in chosen:
                together = ids if isinstance(ids, list) else [ids]
                colours = scene.get("colours", COLOURS)
                self._take_nodes(HELP / f"{name}.png", together, colours)

    def _set_up(self, scene: dict[str, Any]) -> None:
        path = ROOT / scene["workflow"]
        began = time.monotonic()
        self.page.evaluate(OPEN, [json.loads(path.read_text("utf-8")), path.stem])
        self._wait_until_drawn()
        for place, value in scene.get("set", {}).items():
            node, _, widget = place.partition(".")
            self.page.evaluate(SET, [int(node), widget, value])
        run = scene.get("run")
        if run:
            self._run(None if run is True else [str(node) for node in run], path.name)
        if scene.get("press"):
            self.page.locator(scene["press"]).dispatch_event("click")
            self._wait_until_drawn()
        self.page.evaluate(LEAVE_OUT_NOTES)
        print(f"  {path.name}: {time.monotonic() - began:.0f} s", flush=True)

    def _run(self, ids: list[str] | None, name: str) -> None:
        """Press Run, on a small screen: drawing the large one takes more time than the run."""
        self.page.set_viewport_size({"width": 400, "height": 300})
        self.page.evaluate(RUN, ids)
        end = self.page.wait_for_function("() => window.ended").json_value()
        self.page.set_viewport_size(SCREEN)
        if not end.startswith("execution_success"):
            raise SystemExit(f"error: {name} did not run to its end: {end}")

    def _take_graph(self, file: Path, scale: float) -> None:
        x, y = self.page.evaluate(WHERE)
        self._look_at(x, y, scale)
        self._wait_until_drawn()
        ids = self.page.evaluate(ALL_IDS)
        self._close_up(ids, scale)
        self._save(file, ids)

    def _close_up(self, ids: list[int], scale: float) -> None:
        """Every node right below the lowest of those above it: a run makes some of them grow."""
        boxes = {node: self._box([node]) for node in ids}
        set_down: list[dict[str, float]] = []
        for node, box in sorted(boxes.items(), key=lambda item: item[1]["y"]):
            above = [other for other in set_down if _share_a_column(box, other)]
            if above:
                top = max(other["y"] + other["height"] for other in above)
                self.page.evaluate(MOVE_DOWN, [node, (top - box["y"]) / scale])
                box["y"] = top
            set_down.append(box)

    def _take_nodes(self, file: Path, ids: list[int], colours: int) -> None:
        """The nodes one below another, away from all others, with what folds on them open."""
        x, y = 0.0, float(AWAY * ids[0])
        self._look_at(x, y, 1)
        for node in ids:
            self.page.evaluate(PUT, [node, x, y])
            self._wait_until_drawn()
            for fold in self._node(node).locator("details:not([open]) > summary").all():
                fold.click()
            y += self._box([node])["height"] - 2 * MARGIN + GAP
        self.page.mouse.move(0, 0)
        self._save(file, ids, colours)

    def _look_at(self, x: float, y: float, scale: float) -> None:
        """Draw the point of the graph at the corner of the screen."""
        self.page.evaluate(LOOK_AT, [x, y, scale, *CORNER])

    def _node(self, node: int):
        return self.page.locator(f'[data-node-id="{node}"]')

    def _box(self, ids: list[int]) -> dict[str, float]:
        """The part of the screen that the nodes take."""
        boxes = [self._node(node).bounding_box() for node in ids]
        left = min(box["x"] for box in boxes) - MARGIN
        top = min(box["y"] for box in boxes) - MARGIN
        right = max(box["x"] + box["width"] for box in boxes) + MARGIN
        bottom = max(box["y"] + box["height"] for box in boxes) + MARGIN
        return {"x": left, "y": top, "width": right - left, "height": bottom - top}

    def _wait_until_drawn(self) -> bytes:
        """The screen, once two pictures of it in a row are the same."""
        before, now = b"", self.page.screenshot()
        deadline = time.monotonic() + LIMIT / 1000
        while now != before:
            if time.monotonic() > deadline:
                raise SystemExit("error: something on the page does not stop moving")
            time.sleep(STILL)
            before, now = now, self.page.screenshot()
        return now

    def _save(self, file: Path, ids: list[int], colours: int = COLOURS) -> None:
        screen = Image.open(io.BytesIO(self._wait_until_drawn())).convert("RGB")
        box = self._box(ids)
        if box["x"] + box["width"] > SCREEN["width"] or box["y"] + box["height"] > SCREEN["height"]:
            raise SystemExit(f"error: {file.name} does not fit the screen: {box}")
        left, top, width, height = (box[key] for key in ("x", "y", "width", "height"))
        edges = (left, top, left + width, top + height)
        picture = screen.crop(tuple(round(edge * SHARPNESS) for edge in edges))
        few = picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(file, optimize=True)
        size = f"{picture.width} x {picture.height}, {file.stat().st_size / 1000:.0f} KB"
        print(f"  wrote {file.relative_to(ROOT)} ({size})", flush=True)


def _share_a_column(one: dict[str, float], other: dict[str, float]) -> bool:
    return max(one["x"], other["x"]) + 2 * MARGIN < min(
        one["x"] + one["width"], other["x"] + other["width"]
    )


def _stem(file: str) -> str:
    return Path(file).stem


def main(address: str, browser: str, *wanted: str) -> None:
    scenes = json.loads((HERE / "scenes.json").read_text("utf-8"))
    HELP.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_page(viewport=SCREEN, device_scale_factor=SHARPNESS)
        page.set_default_timeout(LIMIT)
        photographer = Photographer(page)
        for scene in scenes:
            open_page(page, address)
            photographer.take(scene, set(wanted))
        chromium.close()


def open_page(page: Page, address: str) -> None:
    """Anew for every scene: the page keeps badges and previews of a graph's nodes by their ids, and
    shows them on another graph's."""
    page.goto(address)
    page.wait_for_function(READY)
    page.evaluate("() => app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    page.evaluate(NO_GRID)


if __name__ == "__main__":
    main(*sys.argv[1:])
