"""A picture of `queue` that is dropped on the page restores the job, with values that were set
inside subgraphs, in place of links, and as entries that bring other widgets."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.client.workflow import to_prompt
from PIL import Image

PAGES_OWN = "async () => (await app.graphToPrompt()).output"
DROP = """async ([name, content]) => {
    const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0))
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File([bytes], name, { type: "image/png" }))
    const [clientX, clientY] = [innerWidth / 2, innerHeight / 2]
    const event = (name) => new DragEvent(name,
        { bubbles: true, cancelable: true, dataTransfer, clientX, clientY })
    const target = document.elementFromPoint(clientX, clientY)
    for (const name of ["dragenter", "dragover"]) target.dispatchEvent(event(name))
    const frame = () => new Promise(requestAnimationFrame)
    await frame().then(frame)
    target.dispatchEvent(event("drop"))
}"""
TITLES = "() => app.rootGraph.nodes.map((node) => node.title).sort()"
OUTER, INNER = "0b7f35a4-0000-4000-8000-000000000001", "0b7f35a4-0000-4000-8000-000000000002"
EMPTY: dict[str, Any] = {
    "last_node_id": 0, "last_link_id": 0, "version": 0.4, "config": {}, "groups": [], "extra": {},
    "nodes": [], "links": [],
}  # fmt: skip


def slot(name: str, kind: str, link: int | None = None, widget: bool = True) -> dict[str, Any]:
    shown = {"widget": {"name": name}} if widget else {}
    return {"name": name, "type": kind, "link": link, **shown}


def node(number: int, kind: str, place: int, inputs=(), links=(), **more: Any) -> dict[str, Any]:
    return {
        "id": number, "type": kind, "title": f"Node {number}", "pos": [place, 100 * number],
        "size": [300, 200], "flags": {}, "order": 0, "mode": 0, "properties": {},
        "inputs": list(inputs),
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": list(links)}], **more,
    }  # fmt: skip


def definition(name: str, key: str, inside: list[Any], links: list[Any]) -> dict[str, Any]:
    """A subgraph that is given a width and hands out a picture."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    into = [one[0] for one in links if one[1] == -10]
    out = [one[0] for one in links if one[3] == -20]
    return {
        "id": key, "version": 1, "revision": 0, "config": {}, "name": name, "widgets": [],
        "state": {"lastGroupId": 0, "lastNodeId": 9, "lastLinkId": 9, "lastRerouteId": 0},
        "inputNode": {"id": -10, "bounding": [0, 0, 120, 60]},
        "outputNode": {"id": -20, "bounding": [900, 0, 120, 60]},
        "inputs": [{"id": f"{key[:-1]}a", "name": "width", "type": "INT", "linkIds": into}],
        "outputs": [{"id": f"{key[:-1]}b", "name": "IMAGE", "type": "IMAGE", "linkIds": out}],
        "nodes": inside, "groups": [], "extra": {},
        "links": [dict(zip(names, one, strict=True)) for one in links],
    }  # fmt: skip


def saved(nodes: list[Any], links: list[Any], *definitions: Any) -> dict[str, Any]:
    return {
        **EMPTY, "last_node_id": 9, "last_link_id": 9, "nodes": nodes, "links": links,
        "id": "5f1d9c1e-0000-4000-8000-000000000002",
        "definitions": {"subgraphs": list(definitions)},
    }  # fmt: skip


def save(number: int, link: int, prefix: str) -> dict[str, Any]:
    entries = [slot("images", "IMAGE", link, widget=False)]
    values = {"widgets_values": [prefix], "title": f"Save {prefix}", "outputs": []}
    return node(number, "SaveImage", 900, entries, **values)


def nested(page_keeps_values: bool) -> dict[str, Any]:
    """Three instances of a subgraph that holds an instance of another, as a page saves them that
    keeps the shown values with the instance, and as one that keeps them inside."""

    def instance(number: int, kind: str, link: int | None, out: int, source: str, width: int):
        kept = {"widgets_values": [width]} if page_keeps_values else {}
        one = node(number, kind, 400, [slot("width", "INT", link)], [out],
                   title=f"Instance {number}", **kept)  # fmt: skip
        if not page_keeps_values:
            one["properties"] = {"proxyWidgets": [[source, "width"]]}
        return one

    height = node(7, "PrimitiveInt", 0, [slot("value", "INT")], widgets_values=[80, "fixed"])
    height["outputs"] = [{"name": "INT", "type": "INT", "links": [3]}]
    sizes = [slot("width", "INT", 1), slot("height", "INT", 3)]
    both = [slot(f"image{at}", "IMAGE", link, widget=False) for at, link in ((1, 5), (2, 6))]
    inside = [
        height,
        node(5, "EmptyImage", 400, sizes, [5], widgets_values=[48, 64, 1, 255]),
        node(6, "EmptyImage", 400, [slot("width", "INT", 4)], [6], widgets_values=[52, 64, 1, 0]),
        node(9, "ImageBatch", 800, both, [2]),
    ]
    inner = definition("Inner", INNER, inside, [
        [1, -10, 0, 5, 0, "INT"], [4, -10, 0, 6, 0, "INT"], [3, 7, 0, 5, 1, "INT"],
        [5, 5, 0, 9, 0, "IMAGE"], [6, 6, 0, 9, 1, "IMAGE"], [2, 9, 0, -20, 0, "IMAGE"],
    ])  # fmt: skip
    outer = definition("Outer", OUTER, [instance(8, INNER, 1, 2, "5", 36)], [
        [1, -10, 0, 8, 0, "INT"], [2, 8, 0, -20, 0, "IMAGE"],
    ])  # fmt: skip
    root = [
        *(instance(at, OUTER, None, at, "8", 28 + 4 * at) for at in (1, 2, 3)),
        save(4, 1, "first"), save(5, 2, "second"), save(6, 3, "third"),
    ]  # fmt: skip
    return saved(root, [[at, at, 0, at + 3, 0, "IMAGE"] for at in (1, 2, 3)], outer, inner)


def resized() -> dict[str, Any]:
    """Two pictures that are given other sizes."""
    by_height = ["scale height", 24, "nearest-exact"]
    by_both = ["scale dimensions", 40, 24, "disabled", "nearest-exact"]
    nodes: list[Any] = [node(1, "EmptyImage", 0, (), [1, 2], widgets_values=[32, 48, 1, 255])]
    links: list[Any] = []
    for at, values in ((1, by_height), (2, by_both)):
        links += [[at, 1, 0, at + 1, 0, "IMAGE"], [at + 2, at + 1, 0, at + 3, 0, "IMAGE"]]
        nodes.append(
            node(at + 1, "ResizeImageMaskNode", 400, [slot("input", "IMAGE", at, widget=False)],
                 [at + 2], widgets_values=values)
        )  # fmt: skip
    return saved([*nodes, save(4, 3, "first"), save(5, 4, "second")], links)


def tree(prompt: dict[str, Any], name: str) -> Any:
    """A node with all that leads to it, whatever the ids."""
    one = prompt[name]
    return one["class_type"], {
        key: tree(prompt, value[0]) if isinstance(value, list) else value
        for key, value in one["inputs"].items()
    }


def ends(prompt: dict[str, Any]) -> dict[str, Any]:
    return {
        one["inputs"]["filename_prefix"]: tree(prompt, name)
        for name, one in prompt.items()
        if one["class_type"] == "SaveImage"
    }


@pytest.fixture
def dropped(comfy, live_server, tmp_path):
    """The workflow's job with these values is run and its first picture dropped on the page:
    (what ran, what the page would run then, the size of the picture)."""

    def run(workflow: dict[str, Any], sets: dict[str, Any]) -> tuple[Any, Any, Any]:
        file, out = tmp_path / "saved.json", tmp_path / "out"
        file.write_text(json.dumps(workflow), "utf-8")
        given = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
        place = ["--server", live_server.url, "--out", str(out)]
        assert main(["queue", str(file), *place, *given]) == 0
        picture = min(out.glob("*_first_*.png"))
        with Image.open(picture) as image:
            ran, size = json.loads(image.info["prompt"]), image.size
            shown = json.loads(image.info["workflow"])
        info = live_server.object_info()
        assert to_prompt(shown, info) == {
            name: {**one, "inputs": ran[name]["inputs"]}
            for name, one in to_prompt(workflow, info).items()
        }
        comfy.open_workflow(EMPTY, "empty")
        comfy.evaluate(DROP, [picture.name, base64.b64encode(picture.read_bytes()).decode()])
        comfy.becomes(TITLES, sorted(one["title"] for one in workflow["nodes"]))
        pages = ends(comfy.evaluate(PAGES_OWN))
        assert pages == ends(ran)
        assert comfy.our_errors() == []
        comfy.dismiss_alerts()
        return ran, pages, size

    return run


@pytest.mark.parametrize("page_keeps_values", [True, False], ids=["values outside", "inside"])
def test_a_dropped_picture_restores_values_inside_subgraphs(dropped, page_keeps_values):
    sets = {
        "1:8:5.color": 4080, "1:8:5.height": 24, "1:8:6.width": 72,
        "2:8:5.width": 56, "2:8:6.width": 56, "3:8:5.width": 60, "3:8:6.width": 64,
    }  # fmt: skip
    ran, pages, size = dropped(nested(page_keeps_values), sets)
    assert size == (ran["1:8:5"]["inputs"]["width"], 24)

    def pairs(name: str) -> list[Any]:
        batches = (pages[prefix][1]["images"][1] for prefix in ("first", "second", "third"))
        return [tuple(one[f"image{at}"][1][name] for at in (1, 2)) for one in batches]

    assert pairs("color") == [(4080, 0), (255, 0), (255, 0)]
    assert pairs("height")[0] == (24, 64)
    assert pairs("width") == [(size[0], 72), (56, 56), (60, 64)]


def test_a_dropped_picture_restores_another_entry_of_a_list(dropped):
    sets = {
        "2.resize_type": "scale dimensions", "2.resize_type.width": 16,
        "2.resize_type.height": 20, "3.resize_type": "scale width",
    }  # fmt: skip
    _, pages, size = dropped(resized(), sets)
    assert size == (16, 20)
    assert pages["second"][1]["images"][1]["resize_type.width"] == 40
