"""The browser tier: the host's own page in Chromium, against a real server.

One server, browser and page serve the whole session (each worker's, where tests run on several), as
the page takes long to load. Screenshots are kept in the folder CRAFT_ARTIFACTS, else in the
session's temporary folder. Tests wait for a state of the page and never for a fixed time, so
that they give the same result on a slow machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    TimeoutError,
    sync_playwright,
)

from launcher.run.tiers import find_chromium

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "host" / "parts")]

from live_server import live_server, pytest_runtest_makereport  # noqa: E402, F401
from scenes import (  # noqa: E402
    ALONE,
    CLOSE_OVERLAYS,
    FIT,
    MEASURED,
    OVERLAYS,
    TWO_FRAMES,
)

_COMFYUI = os.environ.get("COMFYUI_PATH", "")
if not (Path(_COMFYUI) / "main.py").is_file():
    raise pytest.UsageError(
        f"COMFYUI_PATH is {_COMFYUI!r}, which is no ComfyUI; "
        "the browser tests run through: python run.py test browser"
    )

LOAD_LIMIT = 300_000  # milliseconds until the page is loaded, on a slow and busy machine
LIMIT = 120_000  # milliseconds until it shows what was asked for
PATIENCE = 15_000  # milliseconds until something is tried again
RUN_LIMIT = 900_000  # milliseconds; two of the shipped workflows train
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the page opens on its template browser
    "Comfy.Validation.Workflows": True,  # the page checks what it loads
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # texts are drawn however small
}
# The page opens a workflow of its own when it has set up everything else.
READY = "window.app?.extensionManager?.workflow?.activeWorkflow?.changeTracker"
# The workflow and how many nodes it shows; the page opens the one that it kept, after a while.
SHOWN = "() => ({ id: app.rootGraph.id, nodes: app.rootGraph.nodes.length })"
# The page keeps what it shows some time after it has changed.
DRAFTS = """(id) => [localStorage, sessionStorage].some((store) =>
    Object.keys(store).some((key) => store.getItem(key).includes(id)))"""
LOAD = "([graph, name]) => app.loadGraphData(graph, true, true, name)"
DISMISS = """() => {
    app.extensionManager.toast.removeAll()
    return document.querySelectorAll(".p-toast-message").length
}"""
# Where a node's help did not open: what the page shows in its place.
NO_HELP = """() => {
    const text = (selector) =>
        [...document.querySelectorAll(selector)].map((one) => one.innerText.slice(0, 200))
    return JSON.stringify({
        buttons: document.querySelectorAll("[data-testid=info-button]").length,
        help: text(".node-help-content"),
        over: text("[role=dialog], [role=alert], .litesearchbox, .litecontextmenu"),
        selected: [...app.canvas.selectedItems].map((one) => one.type ?? one.title),
        nodes: app.graph.nodes.map((one) => one.type),
        root: app.canvas.graph === app.rootGraph,
        visible: document.visibilityState,
        vue: LiteGraph.vueNodesMode,
    })
}"""
VUE_NODES = "(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
NOTE_THE_END = """() => {
    window.ended = null
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(kind, (event) => {
            window.ended ??= [kind, event.detail.exception_message ?? ""]
        })
}"""
# Errors that the page writes without our pack too: user files that need not exist, download sites
# that it is not allowed to ask for a missing model, help in the page's language, which need not
# exist, and an error of its own while it starts.
NOT_OURS = (
    "/userdata",
    "/user.css",
    "/en.md]",
    "Content Security Policy",
    "ComfyApp graph accessed before initialization",
)


class ComfyPage:
    """The host's page, and the errors that it has written to the console."""

    def __init__(self, page: Page, artifacts: Path):
        self.page = page
        self.artifacts = artifacts
        self.errors: list[str] = []
        page.on("console", self._note_message)
        page.on("pageerror", self._note_error)

    @classmethod
    def load(cls, browser: Browser, url: str, artifacts: Path) -> ComfyPage:
        """Open a new page and wait until it has finished its setup."""
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.set_default_timeout(LIMIT)
        comfy = cls(page, artifacts)
        page.goto(url, timeout=LOAD_LIMIT)
        page.wait_for_function(READY, timeout=LOAD_LIMIT)
        return comfy

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} [{message.location.get('url', '')}]")

    def _note_error(self, error: Error) -> None:
        self.errors.append(f"{error.message}\n{error.stack}")

    def our_errors(self) -> list[str]:
        """Errors since the last workflow was opened, without those of the bare page."""
        return [error for error in self.errors if not any(known in error for known in NOT_OURS)]

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def open_workflow(self, workflow: dict[str, Any], name: str) -> None:
        """Load a workflow in UI format, and draw all of it."""
        self.dismiss_alerts()
        self.errors.clear()
        self.evaluate(LOAD, [workflow, name])
        self.fit()

    def reload(self) -> None:
        """Load the page again, as with F5, and wait until it shows the workflow that it showed."""
        known = self.evaluate(SHOWN)
        self.until(lambda: self.evaluate(DRAFTS, known["id"]), bool)
        self.page.reload(timeout=LOAD_LIMIT)
        self.page.wait_for_function(READY, timeout=LOAD_LIMIT)
        self.becomes(SHOWN, known)
        self.fit()

    def fit(self) -> None:
        """Bring all nodes into view, and let the page draw them."""
        self.evaluate(FIT)
        self.evaluate(TWO_FRAMES)

    def becomes(self, script: str, wanted: Any, argument: Any = None) -> None:
        """Wait until a script gives what is wanted; if it never does, show what it gives."""
        given = self.until(lambda: self.evaluate(script, argument), lambda it: it == wanted)
        assert given == wanted

    def until(self, ask: Callable[[], Any], fits: Callable[[Any], bool]) -> Any:
        """Ask until the answer fits, or for as long as we wait for anything; the last answer."""
        ends = time.monotonic() + LIMIT / 1000
        while not fits(answer := ask()) and time.monotonic() < ends:
            if not self.evaluate(TWO_FRAMES):
                self.page.bring_to_front()
        return answer

    @contextmanager
    def drawing(self, way: str) -> Iterator[None]:
        """Nodes drawn as elements of the page ("vue") or on its canvas ("classic", its default)."""
        self._draw(vue=way == "vue")
        yield
        self._draw(vue=False)

    def _draw(self, *, vue: bool) -> None:
        self.evaluate(VUE_NODES, vue)
        self.becomes("() => LiteGraph.vueNodesMode", vue)
        self.evaluate(TWO_FRAMES)

    def run(self) -> list[str]:
        """Press Run and wait for the end: how it ended, and the message of a failure."""
        self.evaluate(NOTE_THE_END)
        with self.page.expect_response(
            lambda answer: answer.url.endswith("/prompt") and answer.request.method == "POST"
        ) as queued:
            self.page.get_by_test_id("queue-button").click()
        assert queued.value.ok, queued.value.text()
        self.page.wait_for_function("() => window.ended", timeout=RUN_LIMIT)
        return self.evaluate("() => window.ended")

    def help_of(self, node: str, title: str) -> Locator:
        """The help of a node type, opened with the info button of a new one.

        The page shows the button some time after the selection has changed, so a press may meet the
        button of the selection before: it is pressed again until the help opens. What lies over
        the canvas, such as a search that a quick second click has opened, is closed before that.
        """
        panel = self.page.locator(".node-help-content")
        heading = panel.get_by_role("heading", name=title, exact=True, level=1)
        button = self.page.get_by_test_id("info-button")

        def opened() -> bool:
            self.page.mouse.click(*self.evaluate(ALONE, node))
            try:
                self.page.wait_for_function(MEASURED, timeout=PATIENCE)
                button.dispatch_event("click", timeout=PATIENCE)  # it moves with the node
                heading.wait_for(timeout=PATIENCE)
            except TimeoutError:
                tried.append(self.evaluate(NO_HELP))
                self.page.keyboard.press("Escape")
                return False
            return True

        tried: list[str] = []
        if not self.until(opened, bool):
            self.keep_screenshot(f"no_help_{node}")
            raise AssertionError(f"the help of {node} does not open: {tried}")
        return panel

    def alerts(self) -> list[str]:
        """The texts of the messages that the page shows."""
        return self.page.get_by_role("alert").all_inner_texts()

    def dismiss_alerts(self) -> None:
        """Close messages until none is left: the page may add one late, and they fade slowly."""
        assert self.until(lambda: self.evaluate(DISMISS), lambda left: left == 0) == 0

    def saved(self) -> dict[str, Any]:
        """The graph as the page would save it."""
        return self.evaluate("() => app.graph.serialize()")

    def keep_screenshot(self, name: str) -> Path:
        path = self.artifacts / f"{name}.png"
        self.page.screenshot(path=path)
        return path


def close_overlays(page: Page) -> None:
    """Close every dialog and menu over the page; AssertionError if one stays."""
    ends = time.monotonic() + PATIENCE / 1000
    while left := page.evaluate(OVERLAYS):
        assert time.monotonic() < ends, f"over the page, and not to be closed: {left}"
        page.evaluate(CLOSE_OVERLAYS)
        page.keyboard.press("Escape")
        page.evaluate(TWO_FRAMES)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest file first, so that no worker still runs it when the others are done."""
    items.sort(key=lambda item: item.path.name != "test_workflows.py")


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the screenshots."""
    named = os.environ.get("CRAFT_ARTIFACTS", "").strip()
    folder = Path(named).resolve() if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"screenshots: {folder}")
    return folder


@pytest.fixture(scope="session")
def comfy(live_server, artifacts: Path) -> Iterator[ComfyPage]:  # noqa: F811
    """The loaded page."""
    for name, value in SETTINGS.items():
        live_server.server.client.post_json(f"/settings/{name}", value)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=FLAGS, ignore_default_args=["--hide-scrollbars"]
        )
        yield ComfyPage.load(browser, live_server.url, artifacts)
        browser.close()


@pytest.fixture(autouse=True)
def nothing_left_open(comfy) -> Iterator[None]:
    """No test meets a dialog or menu that the one before has left open, as one that fails does."""
    yield
    for context in comfy.page.context.browser.contexts:
        for page in context.pages:
            close_overlays(page)
