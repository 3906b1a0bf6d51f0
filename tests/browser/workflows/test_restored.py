"""A picture of `queue` that is dropped on the page restores the job, with values that were set
inside subgraphs, in place of links, and as entries that bring other widgets."""

from __future__ import annotations

import base64
import json
from pathlib import Path
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
        "id": number, "type": kind, "pos": [place, 100 * number], "size": [300, 200], "flags": {},
        "order": 0, "mode": 0, "properties": {}, "inputs": list(inputs),
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": list(links)}], **more,
    }  # fmt: skip


def definition(name: str, key: str, inside: list[Any], links: list[Any]) -> dict[str, Any]:
    """A subgraph that shows the width of its first node and hands out that node's picture."""
    first = inside[0]["id"]
    return {
        "id": key, "version": 1, "revision": 0, "config": {}, "name": name, "widgets": [],
        "state": {"lastGroupId": 0, "lastNodeId": 9, "lastLinkId": 9, "lastRerouteId": 0},
        "inputNode": {"id": -10, "bounding": [0, 0, 120, 60]},
        "outputNode": {"id": -20, "bounding": [900, 0, 120, 60]},
        "inputs": [{"id": f"{key[:-1]}a", "name": "width", "type": "INT", "linkIds": [1]}],
        "outputs": [{"id": f"{key[:-1]}b", "name": "IMAGE", "type": "IMAGE", "linkIds": [2]}],
        "nodes": inside, "groups": [], "extra": {},
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": first, "target_slot": 0,
             "type": "INT"},
            {"id": 2, "origin_id": first, "origin_slot": 0, "target_id": -20, "target_slot": 0,
             "type": "IMAGE"},
            *links,
        ],
    }  # fmt: skip


def saved_by(page_keeps_values: bool) -> dict[str, Any]:
    """Two instances of a subgraph that holds an instance of another, as a page saves them that
    keeps the shown values with the instance, and as one that keeps them inside."""
    number = node(7, "PrimitiveInt", 0, [slot("value", "INT")], [3], widgets_values=[80, "fixed"])
    number["outputs"] = [{"name": "INT", "type": "INT", "links": [3]}]
    picture = node(
        5, "EmptyImage", 400, [slot("width", "INT", 1), slot("height", "INT", 3)], [2],
        widgets_values=[48, 64, 1, 255],
    )  # fmt: skip
    to_height = {"id": 3, "origin_id": 7, "origin_slot": 0, "target_id": 5, "target_slot": 1,
                 "type": "INT"}  # fmt: skip

    def instance(number: int, kind: str, link: int | None, out: int, source: str, width: int):
        kept = {"widgets_values": [width]} if page_keeps_values else {}
        entry = slot("width", "INT", link)
        one = node(number, kind, 400, [entry], [out], title=f"Instance {number}", **kept)
        if not page_keeps_values:
            one["properties"] = {"proxyWidgets": [[source, "width"]]}
        return one

    root = [
        instance(1, OUTER, None, 1, "8", 32),
        instance(2, OUTER, None, 2, "8", 40),
        *(
            node(number, "SaveImage", 900, [slot("images", "IMAGE", link, widget=False)], (),
                 widgets_values=[prefix], title=f"Save {prefix}")
            for number, link, prefix in ((3, 1, "first"), (4, 2, "second"))
        ),
    ]  # fmt: skip
    for one in root[2:]:
        one["outputs"] = []
    return {
        **EMPTY, "last_node_id": 9, "last_link_id": 9, "nodes": root,
        "id": "5f1d9c1e-0000-4000-8000-000000000002",
        "links": [[1, 1, 0, 3, 0, "IMAGE"], [2, 2, 0, 4, 0, "IMAGE"]],
        "definitions": {"subgraphs": [
            definition("Outer", OUTER, [instance(8, INNER, 1, 2, "5", 36)], []),
            definition("Inner", INNER, [picture, number], [to_height]),
        ]},
    }  # fmt: skip


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


@pytest.mark.parametrize("page_keeps_values", [True, False], ids=["values outside", "inside"])
def test_a_dropped_picture_restores_values_inside_subgraphs(
    comfy, live_server, tmp_path, page_keeps_values
):
    workflow = saved_by(page_keeps_values)
    info = live_server.object_info()
    file = tmp_path / "nested.json"
    file.write_text(json.dumps(workflow), "utf-8")
    sets = {"1:8:5.color": "4080", "1:8:5.height": "24", "2:8:5.width": "56"}
    given = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    place = ["--server", live_server.url, "--out", str(tmp_path / "out")]
    assert main(["queue", str(file), *place, *given]) == 0
    pictures = sorted(Path(tmp_path / "out").glob("*_first_*.png"))
    with Image.open(pictures[0]) as image:
        ran = json.loads(image.info["prompt"])
        shown = json.loads(image.info["workflow"])
        assert image.size == (ran["1:8:5"]["inputs"]["width"], 24)
    assert to_prompt(shown, info) == to_prompt(workflow, info) | {
        path: {**to_prompt(workflow, info)[path], "inputs": ran[path]["inputs"]} for path in ran
    }
    comfy.open_workflow(EMPTY, "empty")
    content = base64.b64encode(pictures[0].read_bytes()).decode()
    comfy.evaluate(DROP, [pictures[0].name, content])
    comfy.becomes(TITLES, ["Instance 1", "Instance 2", "Save first", "Save second"])
    pages = ends(comfy.evaluate(PAGES_OWN))
    assert pages == ends(ran)
    (first, second) = (pages[prefix][1]["images"][1] for prefix in ("first", "second"))
    assert (first["color"], first["height"]) == (4080, 24)
    assert second["width"] == 56
    assert comfy.our_errors() == []
    comfy.dismiss_alerts()
