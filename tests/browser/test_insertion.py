"""The fusion inserted into a graph, and made of two LoRAs, in the page: however nodes are drawn."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import NOTE_THE_END, RUN_LIMIT
from craft_lora_pack.craft_core.guidance.reach import guided_strength
from craft_lora_pack.craft_core.starting import FLOOR, FULL_STRENGTH
from PIL import Image
from scenes import MEASURED, RESTORED, TWO_FRAMES, once

ONCE = once("drawn")
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
INSERT, TWO_LORAS = "craft_lora.insert_fusion", "craft_lora.two_loras"
LABEL = "Insert content/style LoRA fusion"
CHECKPOINT = "craft_small_world.safetensors"
CONTENT, STYLE = "craft_small_world_content.safetensors", "craft_small_world_style.safetensors"
PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
CFG = 3.5  # of GRAPH
LOWER, FULL = [guided_strength(CFG)] * 2, [FULL_STRENGTH] * 2  # of content and of style
FLOORS = [FLOOR] * 2
COLOURS = 16  # a picture has more
CLIPPED = 0.4  # of a picture's channel values; burnt pictures have more
PLACE = [900, 400]  # of the mouse, where nothing lies over the graph
BELOW = [500, 1000]  # the same, with a graph that is fitted into the page

# Of the places on the canvas where no element of the page lies, the one farthest from all nodes and
# from the last; the view may be moving.
FREE = """(last) => {
    const { canvas, ds, graph } = app.canvas
    const edge = canvas.getBoundingClientRect()
    const screen = ({ boundingRect: [x, y, width, height] }) => {
        const at = ds.convertOffsetToCanvas([x, y])
        const [left, top] = [at[0] + edge.x, at[1] + edge.y]
        return [left, top, left + width * ds.scale, top + height * ds.scale]
    }
    const boxes = [...graph.nodes.map(screen), ...(last ? [[...last, ...last]] : [])]
    const room = ([x, y]) => Math.min(...boxes.map(([left, top, right, bottom]) =>
        Math.hypot(Math.max(left - x, 0, x - right), Math.max(top - y, 0, y - bottom))))
    const places = []
    for (let x = 100; x < innerWidth; x += 40)
        for (let y = 100; y < innerHeight; y += 40)
            if (document.elementFromPoint(x, y) === canvas) places.push([x, y])
    return places.reduce((best, place) => (room(place) > room(best) ? place : best))
}"""

# A loader, two texts, a latent, a KSampler with its own title and colour, a decode, a preview.
GRAPH = """() => {
    const graph = app.graph
    const add = (type, place, values = {}) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = place
        for (const [name, value] of Object.entries(values))
            node.widgets.find((one) => one.name === name).value = value
        return node
    }
    const loader = add("CheckpointLoaderSimple", [0, 0], {
        ckpt_name: "craft_small_world.safetensors",
    })
    const positive = add("CLIPTextEncode", [400, 0], { text: "a sks animal in zwx style" })
    const negative = add("CLIPTextEncode", [400, 280], { text: "blur" })
    const latent = add("EmptyLatentImage", [400, 560], { width: 64, height: 64 })
    const sampler = add("KSampler", [900, 0], {
        seed: 987654321, control_after_generate: "fixed", steps: 4, cfg: 3.5,
        sampler_name: "dpmpp_2m", scheduler: "karras", denoise: 0.9,
    })
    sampler.title = "My sampler"
    sampler.color = "#232"
    const decode = add("VAEDecode", [1300, 0])
    const preview = add("PreviewImage", [1300, 160])
    loader.connect(0, sampler, "model")
    for (const text of [positive, negative]) loader.connect(1, text, "clip")
    loader.connect(2, decode, "vae")
    positive.connect(0, sampler, "positive")
    negative.connect(0, sampler, "negative")
    latent.connect(0, sampler, "latent_image")
    sampler.connect(0, decode, "samples")
    decode.connect(0, preview, "images")
}"""

# The KSampler becomes a CFGGuider and a SamplerCustomAdvanced, and that is selected.
GUIDED = """() => {
    const { graph } = app
    const one = (type) => graph.nodes.find((node) => node.type === type)
    const texts = graph.nodes.filter((node) => node.type === "CLIPTextEncode")
    graph.remove(one("KSampler"))
    const add = (type, down, values, links) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = [900, down]
        for (const [name, value] of Object.entries(values))
            node.widgets.find((one) => one.name === name).value = value
        for (const [name, from] of Object.entries(links)) from.connect(0, node, name)
        return node
    }
    const model = one("CheckpointLoaderSimple")
    const guider = add("CFGGuider", 0, { cfg: 3.5 },
        { model, positive: texts[0], negative: texts[1] })
    const noise = add("RandomNoise", 300, {}, {})
    const sampler = add("KSamplerSelect", 480, {}, {})
    const sigmas = add("BasicScheduler", 620, { steps: 4 }, { model })
    const last = add("SamplerCustomAdvanced", 820, {},
        { noise, guider, sampler, sigmas, latent_image: one("EmptyLatentImage") })
    last.connect(0, one("VAEDecode"), "samples")
    app.canvas.deselectAll()
    app.canvas.select(last)
}"""
# The KSampler becomes a first and a second stage.
TWO_STAGES = """() => {
    const { graph } = app
    const one = (type) => graph.nodes.find((node) => node.type === type)
    const texts = graph.nodes.filter((node) => node.type === "CLIPTextEncode")
    graph.remove(one("KSampler"))
    const model = one("CheckpointLoaderSimple")
    const stage = (down, values, latent_image) => {
        const node = LiteGraph.createNode("KSamplerAdvanced")
        graph.add(node)
        node.pos = [900, down]
        for (const [name, value] of Object.entries({ steps: 4, ...values }))
            node.widgets.find((widget) => widget.name === name).value = value
        const links = { model, positive: texts[0], negative: texts[1], latent_image }
        for (const [name, from] of Object.entries(links)) from.connect(0, node, name)
        return node
    }
    const first = stage(0, { end_at_step: 2, return_with_leftover_noise: "enable" },
        one("EmptyLatentImage"))
    const second = stage(500, { add_noise: "disable", start_at_step: 2 }, first)
    second.connect(0, one("VAEDecode"), "samples")
    app.canvas.deselectAll()
    app.canvas.select(model)
}"""
# The sampling node of GUIDED takes the first part of its sigmas.
SPLIT = """() => {
    const one = (type) => app.graph.nodes.find((node) => node.type === type)
    const split = LiteGraph.createNode("SplitSigmas")
    app.graph.add(split)
    split.pos = [1300, 1100]
    one("BasicScheduler").connect(0, split, "sigmas")
    split.connect(0, one("SamplerCustomAdvanced"), "sigmas")
}"""
# A LoRA loader before the KSampler, and after the loader a second, titled KSampler, not selected.
BEHIND_A_LORA = """(file) => {
    const { graph } = app
    const one = (type) => graph.nodes.find((node) => node.type === type)
    const sampler = one("KSampler")
    const add = (type, place) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = place
        return node
    }
    const lora = add("LoraLoaderModelOnly", [0, 300])
    lora.widgets.find((widget) => widget.name === "lora_name").value = file
    one("CheckpointLoaderSimple").connect(0, lora, "model")
    const second = add("KSampler", [900, 600])
    second.title = "Hires"
    const text = one("CLIPTextEncode")
    for (const node of [sampler, second]) lora.connect(0, node, "model")
    for (const name of ["positive", "negative"]) text.connect(0, second, name)
    sampler.connect(0, second, "latent_image")
    app.canvas.deselectAll()
    app.canvas.select(sampler)
}"""
TYPES = "() => app.canvas.graph.nodes.map((node) => node.type).sort()"
SAVED = "() => JSON.stringify(app.rootGraph.serialize())"
COMMAND = "(id) => { app.extensionManager.command.execute(id) }"
# Run a command, draw so many frames, and undo.
AND_UNDO = """async ([id, frames]) => {
    const { command } = app.extensionManager
    command.execute(id)
    for (; frames > 0; frames -= 1) await new Promise(requestAnimationFrame)
    await command.execute("Comfy.Undo")
}"""
ROUTER = "app.canvas.graph.nodes.find((node) => node.type === 'CRAFTRouter')"
ROUTER_SIZE = f"() => [...{ROUTER}.size]"
ROUTER_CORNER = f"""() => {{
    const {{ pos, size }} = {ROUTER}
    const [x, y] = app.canvas.convertOffsetToCanvas([pos[0] + size[0], pos[1] + size[1]])
    const box = app.canvas.canvas.getBoundingClientRect()
    return [x + box.left - 2, y + box.top - 2]
}}"""
# All is drawn while the Router's drawing has no width, as newer pages show it at first: by how much
# its lines break, and how much the node grows; null where the page does not show it.
NARROW = f"""() => {{
    const router = {ROUTER}
    const {{ element }} = router.widgets.find((one) => one.type === "craft_drawing")
    if (!element.offsetWidth) return null
    const height = () => element.firstChild.offsetHeight
    const before = [height(), router.size[1]]
    element.parentElement.style.width = "0px"
    for (let turn = 0; turn < 3; turn += 1) app.canvas.draw(true, true)
    return [height() - before[0], router.size[1] - before[1]]
}}"""
STEPS = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
LINKS = """() => {
    const { graph } = app.canvas
    const end = (id, slot, side, own) => {
        const node = graph.getNodeById(id)
        return node ? `${node.type}.${node[side][slot].name}` : own[slot].name
    }
    return [...graph.links.values()].map((link) => [
        end(link.origin_id, link.origin_slot, "outputs", graph.inputs ?? []),
        end(link.target_id, link.target_slot, "inputs", graph.outputs ?? []),
    ].join(" > ")).sort()
}"""
WIDGETS = """(type) => {
    const nodes = app.canvas.graph.nodes
    const node = nodes.find((one) => (type ? one.type === type : one.subgraph))
    const own = node.widgets.filter((one) => one.type !== "craft_drawing")
    return Object.fromEntries(own.map((one) => [one.name, one.value]))
}"""
SET = """([type, name, value]) => {
    const nodes = app.canvas.graph.nodes
    const node = nodes.find((one) => (type ? one.type === type : one.subgraph))
    const widget = node.widgets.find((one) => one.name === name)
    widget.value = value
    widget.callback?.(value)
}"""
LOOK = """() => app.graph.nodes
    .filter((node) => node.title === "My sampler")
    .map(({ type, color, pos }) => [type, color, ...pos])"""
MARKED = """() => {
    const sampler = app.graph.nodes.find((node) => node.type === "KSampler")
    sampler.flags.collapsed = true
    sampler.flags.pinned = true
    const properties = { mine: 7, "Node name for S&R": "Base", cnr_id: "comfy-core" }
    Object.assign(sampler.properties, properties)
}"""
MARKS = """() => {
    const { flags, properties } = app.graph.nodes.find((node) => node.title === "My sampler")
    const names = ["mine", "Node name for S&R", "cnr_id"]
    return [flags.collapsed, flags.pinned, ...names.map((name) => properties[name] ?? null)]
}"""
OVERLAPS = """() => {
    const boxes = app.canvas.graph.nodes.map(({ type, pos, size }) =>
        [type, pos[0], pos[1] - 30, pos[0] + size[0], pos[1] + size[1]])
    const found = []
    for (const [a, left, top, right, bottom] of boxes)
        for (const [b, x, y, farX, farY] of boxes)
            if (a !== b && left < farX && x < right && top < farY && y < bottom) found.push([a, b])
    return found
}"""
MOVE = "() => { app.canvas.graph.nodes[0].pos[1] += 700 }"
TITLE_BAR = """(type) => {
    const node = app.canvas.graph.nodes.find((one) => one.type === type)
    const [x, y] = app.canvas.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] - 14])
    const box = app.canvas.canvas.getBoundingClientRect()
    return [x + box.left, y + box.top]
}"""
INTO_SUBGRAPH = """async (types) => {
    const { graph } = app.canvas
    app.canvas.selectItems(graph.nodes.filter((node) => types.includes(node.type)))
    await app.extensionManager.command.execute("Comfy.Graph.ConvertToSubgraph")
    const host = graph.nodes.find((node) => node.subgraph)
    app.canvas.openSubgraph(host.subgraph, host)
    app.canvas.deselectAll()
}"""
# Drop a text, or files of these names and contents; whether it was taken before the page's own.
DROP = """async ([text, files, [clientX, clientY]]) => {
    const dataTransfer = new DataTransfer()
    if (text) dataTransfer.setData("text/plain", text)
    for (const [name, content, type] of files)
        dataTransfer.items.add(new File([content], name, { type }))
    const target = document.elementFromPoint(clientX, clientY)
    const event = (name) => new DragEvent(name,
        { bubbles: true, cancelable: true, dataTransfer, clientX, clientY })
    target.dispatchEvent(event("dragenter"))
    target.dispatchEvent(event("dragover"))
    const frame = () => new Promise(requestAnimationFrame)
    await frame().then(frame)  // the page finds out what lies below
    let taken = false
    const note = (dropped) => { taken = dropped.defaultPrevented }
    target.addEventListener("drop", note, { once: true })
    target.dispatchEvent(event("drop"))
    return taken
}"""
# The texts of elements that lie on the subgraph node.
ON_THE_NODE = """(selector) => {
    const host = app.graph.nodes.find((node) => node.subgraph)
    const { canvas, ds } = app.canvas
    const edge = canvas.getBoundingClientRect()
    const [x, y] = ds.convertOffsetToCanvas(host.pos)
    const [left, top] = [x + edge.x - 1, y + edge.y - 1]
    const [wide, high] = host.size.map((length) => length * ds.scale + 2)
    return [...document.querySelectorAll(selector)]
        .map((one) => [one.innerText, one.getBoundingClientRect()])
        .filter(([, box]) => box.width && box.height && box.left >= left && box.top >= top &&
            box.right <= left + wide && box.bottom <= top + high)
        .map(([text]) => text)
}"""
INSIDE = """([type, values]) => {
    const { subgraph } = app.graph.nodes.find((node) => node.subgraph)
    const node = subgraph.nodes.find((one) => one.type === type)
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find((one) => one.name === name)
        widget.value = value
        widget.callback?.(value)
    }
}"""
PREVIEWED = """() => app.graph.nodes
    .filter((node) => ["PreviewImage", "SaveImage"].includes(node.type))
    .flatMap((node) => app.nodeOutputs[node.id]?.images ?? [])"""

INSERTED = [
    "CLIPTextEncode", "CRAFTACFGKSampler", "CRAFTRouter", "CRAFTTimestepSchedule",
    "CheckpointLoaderSimple", "EmptyLatentImage", "PreviewImage", "VAEDecode",
]  # fmt: skip
SAMPLER = {
    "seed": 987654321, "control_after_generate": "fixed", "steps": 4, "cfg": 3.5,
    "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 0.9, "asymmetric": True,
}  # fmt: skip


@pytest.fixture(scope="module", params=["vue", "classic"])
def drawn(comfy, request) -> Iterator[str]:
    """Which way the page draws nodes."""
    with comfy.drawing(request.param):
        yield request.param


def has_colours(live_server, item: dict[str, Any]) -> np.ndarray:
    """A picture that the page shows, as (pixels, 3) of 0 to 255; it is no empty one."""
    content = live_server.server.client.fetch(item)
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > COLOURS
    return pixels


class Graph:
    """The graph in the page."""

    def __init__(self, comfy):
        self.comfy, self.page = comfy, comfy.page
        self.clicked: list[int] | None = None  # the last place beside nodes

    def types(self) -> list[str]:
        return self.comfy.evaluate(TYPES)

    def has(self, *types: str) -> None:
        """Wait until the graph has nodes of these types."""
        self.page.wait_for_function(
            "(types) => types.every((type) => app.canvas.graph.nodes.some("
            "(node) => (type ? node.type === type : node.subgraph)))",
            arg=list(types),
        )

    def is_measured(self) -> None:
        """Wait until the page has drawn all nodes, and found out their sizes."""

        def look() -> bool:
            self.comfy.fit()  # each time: a command may just be moving the view
            return self.comfy.evaluate(MEASURED)

        assert self.comfy.until(look, bool)

    def nothing_overlaps(self) -> None:
        self.is_measured()
        self.comfy.becomes(OVERLAPS, [])

    def command(self, name: str) -> None:
        self.comfy.evaluate(COMMAND, name)

    def says(self, text: str) -> None:
        alert = self.page.get_by_role("alert").filter(has_text=text).first
        alert.wait_for()

    def drop(self, text: str = "", files: Any = (), place: Any = PLACE) -> bool:
        return self.comfy.evaluate(DROP, [text, list(files), place])

    def click_beside_nodes(self, times: int) -> None:
        """Click where no node is, each time in another place: a double click opens the search."""
        for _ in range(times):
            self.clicked = self.comfy.evaluate(FREE, self.clicked)
            self.page.mouse.click(*self.clicked)

    def press(self, keys: str) -> None:
        """Press the keys of an undo or a redo, and wait until the page has done it."""
        steps = self.steps()
        self.page.keyboard.press(keys)
        self.page.wait_for_function(f"(steps) => ({STEPS})() !== steps", arg=steps)
        self.page.wait_for_function(RESTORED)
        self.comfy.evaluate(TWO_FRAMES)

    def now(self) -> list[Any]:
        """Nodes with their places and values, and links."""
        return nodes_and_links(self.comfy.evaluate(SAVED))

    def steps(self) -> int:
        """How many steps an undo could take back."""
        return self.comfy.evaluate(STEPS)

    def runs_to_a_picture(self, live_server) -> np.ndarray:
        """The last picture, as (pixels, 3) of 0 to 255."""
        assert self.comfy.run() == ["execution_success", ""]
        items = self.comfy.evaluate(PREVIEWED)
        assert items
        return [has_colours(live_server, item) for item in items][-1]

    def start(self) -> list[Any]:
        """Strengths, floors and clock of the Router and its schedule."""
        router = self.comfy.evaluate(WIDGETS, "CRAFTRouter")
        schedule = self.comfy.evaluate(WIDGETS, "CRAFTTimestepSchedule")
        names = ["content_strength", "style_strength"]
        floors = ["content_floor", "style_floor", "clock"]
        return [*(router[name] for name in names), *(schedule[name] for name in floors)]

    def keep_screenshot(self, name: str) -> None:
        self.comfy.dismiss_alerts()
        self.comfy.evaluate("() => app.canvas.deselectAll()")
        self.comfy.fit()
        self.comfy.keep_screenshot(name)


@pytest.fixture
def empty(comfy, drawn) -> Iterator[Graph]:
    comfy.open_workflow(EMPTY, "empty")
    comfy.page.wait_for_function("() => !document.querySelector('.dom-widget, [data-node-id]')")
    comfy.evaluate("() => { app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [200, 100] }")
    yield Graph(comfy)
    assert comfy.our_errors() == []


@pytest.fixture(scope="module")
def workflow(comfy, drawn) -> dict[str, Any]:
    """A workflow with a KSampler, saved when all its nodes were drawn."""
    comfy.open_workflow(EMPTY, "empty")
    comfy.evaluate(GRAPH)
    Graph(comfy).is_measured()
    return comfy.saved()


@pytest.fixture
def graph(comfy, workflow) -> Iterator[Graph]:
    """That workflow in the page."""
    comfy.open_workflow(workflow, "with a KSampler")
    yield Graph(comfy)
    assert comfy.our_errors() == []


def insert(graph: Graph) -> None:
    graph.command(INSERT)
    graph.has("CRAFTRouter", "CRAFTTimestepSchedule")


def test_the_command_puts_the_fusion_before_the_only_sampler(graph):
    insert(graph)
    assert graph.types() == INSERTED
    assert graph.comfy.evaluate(LINKS) == [
        "CLIPTextEncode.CONDITIONING > CRAFTACFGKSampler.negative",
        "CRAFTACFGKSampler.LATENT > VAEDecode.samples",
        "CRAFTRouter.conditioning > CRAFTACFGKSampler.positive",
        "CRAFTRouter.model > CRAFTACFGKSampler.model",
        "CRAFTTimestepSchedule.schedule > CRAFTRouter.schedule",
        "CheckpointLoaderSimple.CLIP > CLIPTextEncode.clip",
        "CheckpointLoaderSimple.CLIP > CRAFTRouter.clip",
        "CheckpointLoaderSimple.MODEL > CRAFTRouter.model",
        "CheckpointLoaderSimple.VAE > VAEDecode.vae",
        "EmptyLatentImage.LATENT > CRAFTACFGKSampler.latent_image",
        "VAEDecode.IMAGE > PreviewImage.images",
    ]
    sampler = graph.comfy.evaluate(WIDGETS, "CRAFTACFGKSampler")
    assert {name: sampler[name] for name in SAMPLER} == SAMPLER
    assert graph.comfy.evaluate(WIDGETS, "CRAFTRouter")["prompt"] == "a sks animal in zwx style"
    assert graph.comfy.evaluate(WIDGETS, "CLIPTextEncode")["text"] == "blur"
    assert graph.comfy.evaluate(LOOK) == [["CRAFTACFGKSampler", "#232", 900, 0]]
    graph.nothing_overlaps()
    assert graph.start() == [*LOWER, *FLOORS, "steps"]
    graph.says("multiplies the LoRAs by cfg, so their strengths start low")


@ONCE
def test_a_replaced_sampler_keeps_its_flags_and_properties(graph):
    graph.comfy.evaluate(MARKED)
    insert(graph)
    assert graph.comfy.evaluate(LOOK)[0][0] == "CRAFTACFGKSampler"
    assert graph.comfy.evaluate(MARKS) == [True, True, 7, "Base", None]


@ONCE
def test_stages_of_one_picture_have_the_models_clock_and_full_strengths(graph, live_server):
    graph.comfy.evaluate(TWO_STAGES)
    insert(graph)
    assert graph.types().count("KSamplerAdvanced") == 2
    assert graph.start() == [*FULL, *FLOORS, "model"]
    whole = [link for link in graph.comfy.evaluate(LINKS) if "BasicScheduler" in link]
    assert whole == [
        "BasicScheduler.SIGMAS > CRAFTRouter.whole_sigmas",
        "CheckpointLoaderSimple.MODEL > BasicScheduler.model",
    ]
    stages = graph.comfy.evaluate(WIDGETS, "KSamplerAdvanced")
    given = graph.comfy.evaluate(WIDGETS, "BasicScheduler")
    assert [given[name] for name in ("steps", "scheduler", "denoise")] == [
        stages["steps"], stages["scheduler"], 1,
    ]  # fmt: skip
    graph.nothing_overlaps()
    graph.says("guide as they did, without ACFG")
    graph.runs_to_a_picture(live_server)


@ONCE
def test_it_says_what_acts_besides_it_and_which_sampler_is_left(graph):
    graph.comfy.evaluate(BEHIND_A_LORA, STYLE)
    insert(graph)
    assert {"KSampler", "CRAFTACFGKSampler"} <= set(graph.types())
    graph.says(f"Loaders before the Router put {STYLE} on all rows and all steps")
    graph.says("Left without the fusion, on the same model: Hires;")


@pytest.mark.parametrize("node", ["KSampler", "CheckpointLoaderSimple"])
def test_the_menu_of_a_sampler_or_loader_offers_it(graph, drawn, node):
    graph.page.mouse.click(*graph.comfy.evaluate(TITLE_BAR, node), button="right")
    graph.page.get_by_text(LABEL).first.click()
    graph.has("CRAFTRouter", "CRAFTTimestepSchedule")
    assert graph.types() == INSERTED
    graph.keep_screenshot(f"inserted_{node}_{drawn}")


def nodes_and_links(saved: str) -> list[Any]:
    workflow = json.loads(saved)
    nodes = [
        [node["type"], node["pos"], node.get("widgets_values") or []] for node in workflow["nodes"]
    ]
    return [sorted(nodes, key=str), sorted(link[1:] for link in workflow["links"])]


@pytest.fixture
def slow(comfy) -> Iterator[None]:
    """The page slowed down six times, as on a weak or busy machine."""
    devtools = comfy.page.context.new_cdp_session(comfy.page)
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": 6})
    yield
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    devtools.detach()


def moved_by_the_user(graph: Graph) -> list[Any]:
    """A change by the user that the page has not yet saved as an undo step."""
    before = graph.now()
    graph.comfy.evaluate(MOVE)
    moved = graph.now()
    assert moved != before
    return moved


def goes_back_to(graph: Graph, before: list[Any], steps: int) -> None:
    """One undo takes back exactly the last step, and redo brings all of it back."""
    after, size = graph.now(), graph.comfy.evaluate(ROUTER_SIZE)
    graph.press("Control+z")
    assert graph.now() == before
    assert graph.steps() == steps
    graph.press("Control+y")
    assert graph.now() == after
    assert graph.steps() == steps + 1
    assert graph.comfy.evaluate(ROUTER_SIZE) == size


def test_one_undo_takes_all_of_it_back_and_redo_brings_it_again(graph):
    before, steps = graph.now(), graph.steps()
    insert(graph)
    graph.is_measured()
    goes_back_to(graph, before, steps)


@pytest.mark.parametrize("frames", [0, 2, pytest.param(5, marks=pytest.mark.sweep)])
def test_an_undo_takes_back_the_insertion_and_no_more_however_soon_it_comes(graph, slow, frames):
    moved = moved_by_the_user(graph)
    steps = graph.steps() + 1  # the insertion makes the page save the move first
    graph.comfy.evaluate(AND_UNDO, [INSERT, frames])
    graph.page.wait_for_function(RESTORED)
    assert graph.now() == moved
    assert graph.steps() == steps
    graph.press("Control+y")
    assert graph.types() == INSERTED
    assert graph.steps() == steps + 1


def test_what_the_page_finds_out_later_is_no_step_whenever_the_user_clicks(graph, slow):
    """After a click the page looks for changes."""
    moved = moved_by_the_user(graph)
    steps = graph.steps() + 1
    graph.comfy.evaluate(COMMAND, INSERT)
    graph.click_beside_nodes(6)
    graph.is_measured()
    graph.click_beside_nodes(1)
    assert graph.page.evaluate("() => document.activeElement.tagName") != "INPUT"
    assert graph.steps() == steps + 1
    goes_back_to(graph, moved, steps)


def test_a_size_that_the_user_changes_is_a_step_of_its_own(graph):
    insert(graph)
    graph.comfy.dismiss_alerts()
    graph.is_measured()
    after, steps = graph.now(), graph.steps()
    size = graph.comfy.evaluate(ROUTER_SIZE)
    x, y = graph.comfy.evaluate(ROUTER_CORNER)
    graph.page.mouse.move(x, y)
    graph.page.mouse.down()
    graph.page.mouse.move(x + 60, y + 60, steps=4)
    graph.page.mouse.up()
    graph.click_beside_nodes(1)  # the page looks for changes
    assert graph.comfy.evaluate(ROUTER_SIZE) != size
    assert graph.steps() == steps + 1
    graph.press("Control+z")
    assert graph.now() == after
    assert graph.comfy.evaluate(ROUTER_SIZE) == size


@ONCE
def test_a_drawing_that_has_no_width_yet_makes_its_node_no_taller(graph):
    insert(graph)
    graph.is_measured()

    def narrow() -> list[int] | None:
        graph.comfy.fit()
        return graph.comfy.evaluate(NARROW)

    broken, grown = graph.comfy.until(narrow, bool)
    assert broken > 100
    assert grown == 0


@ONCE
def test_a_sampler_that_a_router_feeds_is_left_alone(graph):
    insert(graph)
    graph.comfy.evaluate("() => app.canvas.deselectAll()")
    graph.comfy.dismiss_alerts()
    before = nodes_and_links(graph.comfy.evaluate(SAVED))
    graph.command(INSERT)
    graph.says("Content/Style LoRA Router feeds My sampler already")
    assert nodes_and_links(graph.comfy.evaluate(SAVED)) == before


@ONCE
def test_a_graph_without_a_sampler_is_told_what_to_select(empty):
    empty.command(INSERT)
    empty.says("There is no sampler here")
    assert empty.types() == []


@ONCE
def test_it_works_inside_a_subgraph_and_keeps_what_the_node_shows(graph):
    graph.comfy.evaluate(INTO_SUBGRAPH, ["KSampler", "CLIPTextEncode"])
    insert(graph)
    assert graph.types() == [
        "CLIPTextEncode", "CRAFTACFGKSampler", "CRAFTRouter", "CRAFTTimestepSchedule",
    ]  # fmt: skip
    links = graph.comfy.evaluate(LINKS)
    assert {"clip > CRAFTRouter.clip", "model > CRAFTRouter.model"} <= set(links)
    assert {"seed > CRAFTACFGKSampler.seed", "CRAFTACFGKSampler.LATENT > LATENT"} <= set(links)
    graph.nothing_overlaps()
    graph.comfy.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    shown = graph.comfy.evaluate(WIDGETS, "")
    assert shown["seed"] == SAMPLER["seed"]
    assert "a sks animal in zwx style" in shown.values()


@ONCE
def test_an_inserted_fusion_runs_to_a_picture(graph, drawn, live_server):
    insert(graph)
    for name, value in [
        ("content_lora", CONTENT), ("style_lora", STYLE), ("prompt", PROMPT),
        ("content_strength", 0.8), ("style_strength", 0.4),
    ]:  # fmt: skip
        graph.comfy.evaluate(SET, ["CRAFTRouter", name, value])
    graph.runs_to_a_picture(live_server)
    graph.keep_screenshot(f"inserted_run_{drawn}")


@ONCE
def test_a_guider_becomes_an_acfg_guider_and_samples(graph, live_server):
    graph.comfy.evaluate(GUIDED)
    insert(graph)
    assert graph.comfy.evaluate(WIDGETS, "CRAFTACFGGuider")["cfg"] == 3.5
    links = graph.comfy.evaluate(LINKS)
    assert {
        "CRAFTRouter.model > CRAFTACFGGuider.model",
        "CRAFTRouter.conditioning > CRAFTACFGGuider.positive",
        "CLIPTextEncode.CONDITIONING > CRAFTACFGGuider.negative",
        "CRAFTACFGGuider.GUIDER > SamplerCustomAdvanced.guider",
        "CheckpointLoaderSimple.MODEL > BasicScheduler.model",
    } <= set(links)
    assert "CFGGuider" not in graph.types()
    graph.nothing_overlaps()
    assert graph.start() == [*LOWER, *FLOORS, "steps"]
    graph.runs_to_a_picture(live_server)


@ONCE
def test_a_guider_that_a_part_of_the_sigmas_goes_with_has_the_models_clock(graph):
    graph.comfy.evaluate(GUIDED)
    graph.comfy.evaluate(SPLIT)
    insert(graph)
    assert graph.start() == [*LOWER, *FLOORS, "model"]


TRIGGER_WORDS = re.compile("/craft_lora/trigger_words")
WHOLE = ["CheckpointLoaderSimple", "EmptyLatentImage", "SaveImage", "VAEDecode"]


def is_whole(graph: Graph) -> None:
    """The fusion subgraph with the pair, and a graph around it that lacks nothing."""
    graph.has("", *WHOLE)
    assert len(graph.types()) == len(WHOLE) + 1 and set(WHOLE) <= set(graph.types())
    shown = graph.comfy.evaluate(WIDGETS, "")
    assert [shown["content_lora"], shown["style_lora"]] == [CONTENT, STYLE]
    latent = graph.comfy.evaluate(WIDGETS, "EmptyLatentImage")
    assert [latent["width"], latent["height"]] == [64, 64]  # what the small world was made for
    ends = [end.split(" > ")[1].split(".")[1] for end in graph.comfy.evaluate(LINKS)]
    assert sorted(ends) == ["clip", "images", "latent_image", "model", "samples", "vae"]
    graph.nothing_overlaps()


@ONCE
@pytest.mark.parametrize(
    "text", [f"{CONTENT}\n{STYLE}\n", "craft_small_world_content, loras/craft_small_world_style"]
)
def test_two_dropped_names_become_a_whole_graph(empty, text):
    assert empty.drop(text)
    is_whole(empty)


@ONCE
def test_the_words_that_dropped_loras_were_trained_with_are_in_the_prompt(empty):
    words = {CONTENT: ["zwx cat"], STYLE: []}

    def answer(route: Any) -> None:
        (name,) = (name for name in words if name in route.request.url)
        route.fulfill(json={"words": words[name]})

    empty.page.route(TRIGGER_WORDS, answer)
    assert empty.drop(f"{CONTENT}\n{STYLE}")
    is_whole(empty)
    empty.page.unroute(TRIGGER_WORDS)
    prompt = empty.comfy.evaluate(WIDGETS, "")["prompt"]
    assert prompt == "A photo of <c>zwx cat</c> in <s>watercolor style</s>"


def test_two_dropped_files_become_a_whole_graph_that_undo_takes_away(empty, drawn):
    assert empty.drop(files=[[CONTENT, "x", ""], [STYLE, "x", ""]])
    is_whole(empty)
    empty.keep_screenshot(f"dropped_{drawn}")
    empty.press("Control+z")
    assert empty.types() == []
    empty.press("Control+y")
    is_whole(empty)


@ONCE
def test_dropped_loras_are_linked_to_what_the_graph_has(graph):
    """The old sampler feeds the decode, so the new subgraph gets its own."""
    before = graph.comfy.evaluate(LINKS)
    assert graph.drop(f"{CONTENT},{STYLE}", place=BELOW)
    graph.has("")
    links = graph.comfy.evaluate(LINKS)
    assert [link for link in before if link not in links] == []
    new = [end.split(" > ")[1].split(".")[1] for end in links if end not in before]
    assert sorted(new) == ["clip", "images", "latent_image", "model", "samples"]
    assert graph.types().count("CheckpointLoaderSimple") == 1
    assert graph.types().count("VAEDecode") == 2
    assert graph.types().count("PreviewImage") == graph.types().count("SaveImage") == 1
    graph.nothing_overlaps()


@ONCE
def test_a_file_that_the_server_does_not_have_is_named_and_nothing_else_happens(empty):
    assert empty.drop(files=[["absent_lora.safetensors", "x", ""], [STYLE, "x", ""]])
    empty.says("absent_lora.safetensors")
    empty.says("models/loras")
    assert empty.types() == []


@ONCE
def test_every_other_drop_is_still_the_pages_own(graph):
    workflow = graph.comfy.evaluate(SAVED)
    for text in ("hello", "hello\nworld", CONTENT, "", f"{CONTENT}\n{STYLE}\n{STYLE}"):
        assert not graph.drop(text, place=BELOW)
    assert not graph.drop(files=[[CONTENT, "x", ""]], place=BELOW)
    graph.comfy.open_workflow(EMPTY, "empty")
    assert not graph.drop(files=[["a.json", workflow, "application/json"]])
    graph.has("KSampler")


@ONCE
def test_a_dropped_subgraph_keeps_its_values_and_runs_to_a_picture(empty, drawn, live_server):
    empty.drop(f"{CONTENT}\n{STYLE}")
    is_whole(empty)
    for type_, name, value in [
        ("EmptyLatentImage", "width", 64), ("EmptyLatentImage", "height", 64),
        ("", "prompt", PROMPT), ("", "steps", 4), ("", "cfg", 3), ("", "seed", 5),
    ]:  # fmt: skip
        empty.comfy.evaluate(SET, [type_, name, value])
    values = empty.comfy.evaluate(WIDGETS, "")
    empty.comfy.open_workflow(json.loads(empty.comfy.evaluate(SAVED)), "reopened")
    assert empty.comfy.evaluate(WIDGETS, "") == values
    assert [text for text in empty.comfy.alerts() if "Invalid workflow" in text] == []
    empty.runs_to_a_picture(live_server)
    empty.keep_screenshot(f"dropped_run_{drawn}")


@ONCE
def test_a_dropped_subgraph_does_not_burn_the_picture_as_it_comes(empty, live_server):
    empty.drop(f"{CONTENT}\n{STYLE}")
    is_whole(empty)
    for type_, name, value in [
        ("EmptyLatentImage", "width", 64), ("EmptyLatentImage", "height", 64),
        ("", "prompt", PROMPT), ("", "seed", 3),
    ]:  # fmt: skip
        empty.comfy.evaluate(SET, [type_, name, value])
    assert empty.comfy.evaluate(WIDGETS, "")["steps"] == 20
    pixels = empty.runs_to_a_picture(live_server)
    assert ((pixels == 0) | (pixels == 255)).mean() < CLIPPED


def on_the_node(graph: Graph, selector: str, text: str) -> None:
    """Wait until an element that lies on the subgraph node says it."""

    def said() -> list[str]:
        graph.comfy.fit()
        return graph.comfy.evaluate(ON_THE_NODE, selector)

    assert any(text in one for one in graph.comfy.until(said, lambda all: text in " ".join(all)))


def test_the_node_of_a_subgraph_shows_what_its_router_shows(empty, drawn):
    empty.drop(f"{CONTENT}\n{STYLE}")
    is_whole(empty)
    saved = set(empty.comfy.evaluate(WIDGETS, ""))
    empty.comfy.evaluate(SET, ["", "prompt", PROMPT])
    on_the_node(empty, ".craft_routing .craft-content", "a sks animal")
    on_the_node(empty, ".craft_routing .craft-style", "zwx style")
    empty.comfy.evaluate(SET, ["", "prompt", "<c>a sks animal in <s>zwx style</s>"])
    on_the_node(empty, ".craft-warning", "is not closed")
    empty.comfy.evaluate(SET, ["", "prompt", PROMPT])
    empty.comfy.evaluate(SET, ["", "cfg", 8])
    on_the_node(empty, ".craft-warning", "pictures burn")
    empty.nothing_overlaps()
    empty.keep_screenshot(f"subgraph_shows_{drawn}")
    empty.page.get_by_role("button", name="Set to 0.2").click()
    empty.comfy.becomes(f"() => ({WIDGETS})('').content_strength", 0.2)
    empty.comfy.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")
    empty.page.wait_for_function(RESTORED)
    on_the_node(empty, ".craft-warning", "pictures burn")  # on the node that the undo has made
    assert set(empty.comfy.evaluate(WIDGETS, "")) == saved
    (host,) = (node for node in empty.comfy.saved()["nodes"] if "-" in node["type"])
    assert len(host["widgets_values"]) == len(saved)


def test_why_a_node_in_a_subgraph_fails_stands_on_the_node_around_it(empty, drawn):
    empty.drop(f"{CONTENT}\n{STYLE}")
    is_whole(empty)
    for name, value in [("prompt", PROMPT), ("steps", 1), ("style_strength", next(fresh))]:
        empty.comfy.evaluate(SET, ["", name, value])
    patterns = {"layer_sets": "custom", "layer_sets.patterns": "content: nowhere.1"}
    empty.comfy.evaluate(INSIDE, ["CRAFTRouter", patterns])
    end, message = empty.comfy.run()
    assert end == "execution_error"
    on_the_node(empty, ".craft-error", message.strip())
    empty.keep_screenshot(f"subgraph_fails_{drawn}")
    empty.comfy.evaluate(INSIDE, ["CRAFTRouter", {"layer_sets": "all"}])
    assert empty.comfy.run() == ["execution_success", ""]
    on_the_node(empty, ".craft-report", "Method: craft.")


fresh = itertools.count(0.31, 0.01)  # only a Router that the server has not cached reports
OTHER = "of_another_family.safetensors"
CHECKPOINTS = re.compile("/models/checkpoints")
LATENT = re.compile(f"/craft_lora/latent.*{OTHER}")


@pytest.fixture
def two_checkpoints(comfy) -> Iterator[None]:
    """The server seems to have another checkpoint, first in its list, of another family."""
    first = {"latent": ["EmptyLatentImage", 512, 768], "family": "SD3"}
    comfy.page.route(CHECKPOINTS, lambda route: route.fulfill(json=[OTHER, CHECKPOINT]))
    comfy.page.route(LATENT, lambda route: route.fulfill(json=first))
    yield
    for route in (CHECKPOINTS, LATENT):
        comfy.page.unroute(route)


def has_size(graph: Graph, width: int, height: int) -> None:
    names = f"() => {{ const found = ({WIDGETS})('EmptyLatentImage'); " \
        "return [found.width, found.height] }"  # fmt: skip
    graph.comfy.becomes(names, [width, height])


def in_the_menu(graph: Graph, text: str) -> Any:
    """The entry of the menu that is open."""
    return graph.page.locator(".litecontextmenu .litemenu-entry").filter(has_text=text).first


def test_a_drop_asks_which_checkpoint_and_the_size_goes_with_it(empty, drawn, two_checkpoints):
    empty.drop(f"{CONTENT}\n{STYLE}")
    in_the_menu(empty, CHECKPOINT).wait_for()
    entries = empty.page.locator(".litecontextmenu .litemenu-entry").all_inner_texts()
    assert entries == [f"{CHECKPOINT} (fits the LoRAs)", OTHER]
    empty.comfy.keep_screenshot(f"drop_asks_{drawn}")
    in_the_menu(empty, OTHER).click()
    empty.has("", *WHOLE)
    assert empty.comfy.evaluate(WIDGETS, "CheckpointLoaderSimple")["ckpt_name"] == OTHER
    has_size(empty, 512, 768)
    empty.comfy.evaluate(SET, ["CheckpointLoaderSimple", "ckpt_name", CHECKPOINT])
    said = f"is 512 x 768; {CHECKPOINT} was made for 64 x 64."
    on_the_node(empty, ".craft-quiet", said)
    empty.keep_screenshot(f"size_of_another_{drawn}")
    empty.page.get_by_role("button", name="Set size to 64 x 64").click()
    has_size(empty, 64, 64)
    gone = "(text) => document.body.innerText.includes(text)"
    empty.comfy.becomes(gone, False, said)
    empty.comfy.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")
    has_size(empty, 512, 768)
    empty.comfy.evaluate(SET, ["EmptyLatentImage", "height", 512])  # a size of one's own
    empty.comfy.becomes(gone, False, "was made for 64 x 64")


@ONCE
def test_a_graph_with_a_checkpoint_is_asked_for_none(graph, two_checkpoints):
    assert graph.drop(f"{CONTENT},{STYLE}", place=BELOW)
    graph.has("")
    assert graph.types().count("CheckpointLoaderSimple") == 1


class Hand:
    """A user's hand: what it does in the page, and how many actions that was."""

    def __init__(self, graph: Graph):
        self.graph, self.page, self.actions = graph, graph.page, 0

    def select(self, *names: str) -> list[list[str]]:
        """Click each file in the system's window of a folder, which the page does not see."""
        self.actions += len(names)
        return [[name, "x", ""] for name in names]

    def drop(self, files: list[list[str]]) -> None:
        self.actions += 1
        assert self.graph.drop(files=files)

    def click(self, place: Any) -> None:
        self.actions += 1
        place.click()

    def press(self, keys: str) -> None:
        self.actions += 1
        self.page.keyboard.press(keys)

    def type(self, text: str) -> None:
        self.actions += 1
        self.page.keyboard.type(text)


def test_from_an_empty_canvas_to_a_saved_picture_takes_at_most_eight_actions(
    empty, two_checkpoints, live_server
):
    hand = Hand(empty)
    hand.drop(hand.select(CONTENT, STYLE))
    hand.click(in_the_menu(empty, CHECKPOINT))
    empty.has("", *WHOLE)
    hand.click(empty.page.locator("textarea:visible").first)
    hand.press("Control+a")
    hand.type(PROMPT)
    empty.comfy.becomes(f"() => ({WIDGETS})('').prompt", PROMPT)
    empty.comfy.evaluate(NOTE_THE_END)
    hand.click(empty.page.get_by_test_id("queue-button"))
    empty.page.wait_for_function("() => window.ended", timeout=RUN_LIMIT)
    assert empty.comfy.evaluate("() => window.ended") == ["execution_success", ""]
    is_whole(empty)
    (saved,) = empty.comfy.evaluate(PREVIEWED)
    assert saved["type"] == "output" and saved["filename"].endswith(".png")
    has_colours(live_server, saved)
    assert hand.actions <= 8


@ONCE
def test_the_dialog_shows_the_checkpoint_that_the_loras_fit(empty, drawn, two_checkpoints):
    empty.command(TWO_LORAS)
    dialog = empty.page.locator("dialog.craft-dialog")
    dialog.wait_for()
    models = dialog.get_by_role("combobox", name="Model")
    empty.page.keyboard.type("world cont")
    empty.page.keyboard.press("Tab")
    empty.page.keyboard.press("Tab")
    assert models.evaluate("(menu) => menu.selectedOptions[0].text") == OTHER
    empty.page.keyboard.type("STYLE world")
    chosen = empty.comfy.until(
        lambda: models.evaluate("(menu) => menu.selectedOptions[0].text"),
        lambda name: name == CHECKPOINT,
    )
    assert chosen == CHECKPOINT
    empty.comfy.keep_screenshot(f"pair_dialog_models_{drawn}")
    empty.page.keyboard.press("Enter")
    is_whole(empty)
    empty.press("Control+z")
    empty.command(TWO_LORAS)
    for name in ("Content LoRA: what is shown", "Style LoRA: how it is shown"):
        file = CONTENT if name.startswith("Content") else STYLE
        dialog.get_by_role("listbox", name=name).select_option(file)
    models.select_option(OTHER)
    dialog.get_by_role("button", name="Add to the graph").click()
    empty.has("", *WHOLE)
    has_size(empty, 512, 768)


@ONCE
def test_the_dialog_is_worked_by_keyboard(empty, drawn):
    empty.command(TWO_LORAS)
    dialog = empty.page.locator("dialog.craft-dialog")
    dialog.wait_for()
    empty.page.keyboard.type("world cont")
    empty.page.keyboard.press("Tab")
    empty.page.keyboard.press("Tab")
    empty.page.keyboard.type("STYLE world")
    empty.comfy.keep_screenshot(f"pair_dialog_{drawn}")
    empty.page.keyboard.press("Enter")
    is_whole(empty)
    assert dialog.count() == 0


@ONCE
def test_escape_closes_the_dialog_and_changes_nothing(empty):
    empty.command(TWO_LORAS)
    dialog = empty.page.locator("dialog.craft-dialog")
    dialog.wait_for()
    assert dialog.get_by_role("button", name="Add to the graph").is_disabled()
    empty.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert empty.types() == []
