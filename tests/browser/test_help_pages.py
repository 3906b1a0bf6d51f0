"""The help of every node of the pack, opened as a user does: the node's info button."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.paths import ROOT

DOCS = ROOT / "web" / "docs"
NODES = sorted(page.stem for page in DOCS.glob("*.md"))
PICTURES = """(panel) => [...panel.querySelectorAll("img")].map((image) => ({
    alt: image.alt,
    path: new URL(image.src).pathname,
    loaded: image.complete && image.naturalWidth > 0,
    fits: image.getBoundingClientRect().right <= panel.getBoundingClientRect().right + 1,
}))"""


def title_and_alt(node: str) -> tuple[str, str]:
    lines = (DOCS / f"{node}.md").read_text("utf-8").split("\n")
    return lines[0].removeprefix("# "), lines[2].removeprefix("![").partition("]")[0]


@pytest.fixture(scope="module")
def page(comfy) -> Any:
    comfy.dismiss_alerts()
    return comfy.page


@pytest.mark.parametrize("node", NODES)
def test_the_info_button_of_a_node_shows_its_page_and_picture(comfy, page, node):
    comfy.errors.clear()
    title, alt = title_and_alt(node)
    help_page = comfy.help_of(node, title)
    help_page.locator("img").first.wait_for(state="visible")
    page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    comfy.keep_screenshot(f"help_{node}")

    address = f"/extensions/craft-lora/docs/pictures/{node}.png"
    assert help_page.evaluate(PICTURES) == [
        {"alt": alt, "path": address, "loaded": True, "fits": True}
    ]
    assert comfy.our_errors() == []
