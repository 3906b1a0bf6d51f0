"""After a run the page shows the map of which LoRA acted under the node that owns it, in both ways
of drawing nodes."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from craft_lora_pack.client.workflow import read_workflow
from scenes import TWO_FRAMES, once

from launcher.paths import ROOT

ONCE = once("drawing")
DEMO = ROOT / "workflows" / "demo_small_world.json"
STEPS = 3
WIDTH = 720  # of a map

# The sampler becomes another: KSampler, ACFG KSampler, or ACFG Guider with SamplerCustomAdvanced.
RESAMPLE = """([kind, seed, steps]) => {
    const graph = app.graph
    const [old] = ["CRAFTACFGKSampler", "KSampler"].flatMap((one) => graph.findNodesByType(one))
    const given = Object.fromEntries(old.inputs.filter((one) => one.link).map((one) => {
        const link = graph.links.get(one.link)
        return [one.name, [graph.getNodeById(link.origin_id), link.origin_slot]]
    }))
    const ends = [...old.outputs[0].links].map((id) => graph.links.get(id))
        .map((link) => [graph.getNodeById(link.target_id), link.target_slot])
    const [x, y] = old.pos
    const add = (type, down, values, links) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = [x, y + down]
        for (const [name, value] of Object.entries(values))
            node.widgets.find((one) => one.name === name).value = value
        for (const [name, [from, slot]] of Object.entries(links))
            from.connect(slot, node, node.inputs.findIndex((one) => one.name === name))
        return node
    }
    const { model, positive, negative, latent_image } = given
    graph.remove(old)
    let last
    if (kind === "CRAFTACFGGuider") {
        const conds = { model, positive, negative }
        const guider = add(kind, 0, { cfg: 3 }, conds)
        const noise = add("RandomNoise", 700, { noise_seed: seed }, {})
        const sampler = add("KSamplerSelect", 820, {}, {})
        const sigmas = add("BasicScheduler", 920, { steps }, { model })
        last = add("SamplerCustomAdvanced", 1100, {}, {
            noise: [noise, 0], guider: [guider, 0], sampler: [sampler, 0], sigmas: [sigmas, 0],
            latent_image,
        })
    } else {
        last = add(kind, 0, { seed, steps, cfg: 3 }, given)
    }
    for (const [node, slot] of ends) last.connect(0, node, slot)
}"""

# Another KSampler takes what the one there is takes, and a preview shows its picture.
BESIDE = """([title, seed]) => {
    const graph = app.graph
    const [old] = graph.findNodesByType("KSampler")
    const [decoder] = graph.findNodesByType("VAEDecode")
    const add = (type, down) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = [old.pos[0] + 400, old.pos[1] + down]
        return node
    }
    const link = (from, slot, node, name) =>
        from.connect(slot, node, node.inputs.findIndex((one) => one.name === name))
    const given = (node, name) => {
        const found = graph.links.get(node.inputs.find((one) => one.name === name).link)
        return [graph.getNodeById(found.origin_id), found.origin_slot]
    }
    const sampler = add("KSampler", 800)
    sampler.title = title
    old.widgets.forEach((one, at) => (sampler.widgets[at].value = one.value))
    sampler.widgets.find((one) => one.name === "seed").value = seed
    for (const name of ["model", "positive", "negative", "latent_image"])
        link(...given(old, name), sampler, name)
    const [picture, preview] = [add("VAEDecode", 1200), add("PreviewImage", 1300)]
    link(sampler, 0, picture, "samples")
    link(...given(decoder, "vae"), picture, "vae")
    link(picture, 0, preview, "images")
}"""
RESEED = """([title, seed]) => {
    const sampler = app.graph.nodes.find((node) => node.title === title)
    sampler.widgets.find((one) => one.name === "seed").value = seed
}"""
KEEP_SEEDS = """() => {
    for (const node of app.graph.findNodesByType("KSampler"))
        for (const one of node.widgets)
            if (one.name.includes("control")) one.value = "fixed"
}"""

# The pictures that nodes of ours show in the classic canvas, by their types.
DRAWN = """() => Object.fromEntries(app.canvas.graph.nodes
    .filter((node) => node.type.startsWith("CRAFT") && node.imgs?.length)
    .map((node) => [node.type, node.imgs.map((image) => image.naturalWidth)]))"""

# The same of Vue nodes.
SHOWN = """() => Object.fromEntries(app.canvas.graph.nodes
    .filter((node) => node.type.startsWith("CRAFT"))
    .map((node) => [node.type,
        [...document.querySelectorAll(`[data-node-id="${node.id}"] img`)]
            .filter((image) => image.src.includes("/view?")).map((image) => image.naturalWidth)])
    .filter(([, widths]) => widths.length))"""

LOOK_AT = """(type) => {
    const [node] = app.canvas.graph.findNodesByType(type)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [300 - node.pos[0], 110 - node.pos[1]]
    app.canvas.setDirty(true, true)
}"""

INTO_A_SUBGRAPH = """() => {
    const [router] = app.graph.findNodesByType("CRAFTRouter")
    const { node } = app.graph.convertToSubgraph(new Set([router]))
    app.canvas.setGraph(app.graph)
    return String(node.id)
}"""
ENTER = """(id) => {
    const node = app.graph.getNodeById(id)
    app.canvas.openSubgraph(node.subgraph, node)
}"""
LEAVE = "() => app.canvas.setGraph(app.graph)"


ROUTE = """(strength) => {
    const [router] = app.graph.findNodesByType("CRAFTRouter")
    router.widgets.find((one) => one.name === "content_strength").value = strength
}"""
REPORT = """() => {
    const [router] = app.graph.findNodesByType("CRAFTRouter")
    return router.widgets.find((one) => one.name === "craft_report").element.innerText
}"""

fresh = itertools.count(1)  # new seeds, so that the server has no run cached


@pytest.fixture(params=["classic", "vue"])
def drawing(comfy, request) -> Iterator[str]:
    """How the page draws nodes."""
    with comfy.drawing(request.param):
        yield request.param


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    """The demo without its pair builder, for one picture."""
    workflow = copy.deepcopy(read_workflow(DEMO))
    gone = {node["id"] for node in workflow["nodes"] if node["id"] in range(12, 17)}
    workflow["nodes"] = [node for node in workflow["nodes"] if node["id"] not in gone]
    workflow["links"] = [link for link in workflow["links"] if link[1] not in gone]
    (latent,) = (one for one in workflow["nodes"] if one["type"] == "EmptyLatentImage")
    latent["widgets_values"] = [64, 64, 1]
    return workflow


def shows(comfy, drawing: str, wanted: dict[str, list[int]], name: str) -> None:
    """Our nodes show pictures of these widths, by their types, and keep to that."""
    script = DRAWN if drawing == "classic" else SHOWN
    (owner,) = wanted
    comfy.evaluate(LOOK_AT, owner)
    comfy.becomes(script, wanted)
    comfy.keep_screenshot(f"map_{name}_{drawing}")
    assert comfy.evaluate(script) == wanted


def sample(comfy, kind: str) -> None:
    """Run with this sampler in place of the present one."""
    comfy.evaluate(RESAMPLE, [kind, next(fresh), STEPS])
    assert comfy.run() == ["execution_success", ""]
    comfy.dismiss_alerts()


@pytest.mark.parametrize(
    ("kind", "owner"),
    [
        ("KSampler", "CRAFTRouter"),
        ("CRAFTACFGGuider", "CRAFTACFGGuider"),
        pytest.param("CRAFTACFGKSampler", "CRAFTACFGKSampler", marks=pytest.mark.sweep),
    ],
)
def test_one_node_shows_the_map(comfy, demo, drawing, kind, owner):
    comfy.open_workflow(demo, f"map {kind}")
    sample(comfy, kind)
    shows(comfy, drawing, {owner: [WIDTH]}, kind)


def test_the_router_shows_the_map_beside_its_report_until_another_node_shows_one(
    comfy, demo, drawing
):
    comfy.open_workflow(demo, "map and report")
    comfy.evaluate(
        ROUTE, 0.3 if drawing == "vue" else 0.4
    )  # a new value: only a Router that runs again reports
    sample(comfy, "KSampler")
    shows(comfy, drawing, {"CRAFTRouter": [WIDTH]}, "and_report")
    assert "Method: craft." in comfy.evaluate(REPORT)
    sample(comfy, "CRAFTACFGKSampler")
    shows(comfy, drawing, {"CRAFTACFGKSampler": [WIDTH]}, "taken_away")


@ONCE
def test_each_sampler_of_a_router_has_a_map_of_its_own(comfy, demo, drawing):
    """A sampler that does not run again keeps its map."""
    comfy.open_workflow(demo, "two samplers")
    comfy.evaluate(RESAMPLE, ["KSampler", next(fresh), STEPS])
    comfy.evaluate(BESIDE, ["Beside", next(fresh)])
    comfy.evaluate(KEEP_SEEDS)
    for _ in range(2):
        comfy.evaluate(RESEED, ["Beside", next(fresh)])
        assert comfy.run() == ["execution_success", ""]
        comfy.dismiss_alerts()
        shows(comfy, drawing, {"CRAFTRouter": [WIDTH, WIDTH]}, "two_samplers")


@ONCE
def test_a_router_inside_a_subgraph_shows_the_map(comfy, demo, drawing):
    comfy.open_workflow(demo, "map in a subgraph")
    place = comfy.evaluate(INTO_A_SUBGRAPH)
    sample(comfy, "KSampler")
    comfy.evaluate(ENTER, place)
    shows(comfy, drawing, {"CRAFTRouter": [WIDTH]}, "subgraph")
    comfy.evaluate(LEAVE)


# The server says that the Router has made these pictures.
EXECUTED = """(names) => {
    const [{ id }] = app.canvas.graph.findNodesByType("CRAFTRouter")
    const images = names.map((filename) => ({ filename, subfolder: "", type: "temp" }))
    const detail = { node: String(id), display_node: String(id), output: { images } }
    app.api.dispatchCustomEvent("executed", detail)
    app.canvas.setDirty(true, true)
}"""
OF_THE_TEST = re.compile("/view.*craft_test_")
NAMES = """() => app.canvas.graph.findNodesByType("CRAFTRouter")[0].imgs
    ?.map((image) => new URL(image.src).searchParams.get("filename")) ?? []"""


def test_pictures_of_an_earlier_output_that_load_last_are_not_shown(comfy, demo):
    comfy.open_workflow(demo, "maps load")
    picture = (ROOT / "workflows" / "demo_small_world.jpg").read_bytes()
    held, released = [], []

    def answer(route: Any) -> None:
        if "older" in route.request.url and not released:
            held.append(route)
        else:
            route.fulfill(body=picture, content_type="image/jpeg")

    older, newer = ["craft_test_older.jpg"], ["craft_test_a.jpg", "craft_test_b.jpg"]
    with comfy.drawing("classic"):
        comfy.page.route(OF_THE_TEST, answer)
        comfy.evaluate(EXECUTED, older)
        assert comfy.until(lambda: len(held), lambda count: count > 0)
        comfy.evaluate(EXECUTED, newer)
        comfy.evaluate(TWO_FRAMES)
        released.append(True)
        for route in held:
            route.fulfill(body=picture, content_type="image/jpeg")
        comfy.becomes(NAMES, newer)
        comfy.evaluate(TWO_FRAMES)
        comfy.becomes(NAMES, newer)
        comfy.page.unroute(OF_THE_TEST)
