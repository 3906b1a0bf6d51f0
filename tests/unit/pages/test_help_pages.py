"""Every help page has its picture, every picture its page, and none is heavy."""

import json
import re
import struct

import pytest

from launcher.commands import main
from launcher.paths import ROOT
from launcher.publish.pictures import known_pictures

DOCS = ROOT / "web" / "docs"
PICTURES = DOCS / "pictures"
PAGES = sorted(DOCS.glob("*.md"))
NODES = [page.stem for page in PAGES]
PICTURE = re.compile(r"^!\[([^\]]+)\]\((\S+)\)$", re.M)
MOST_BYTES, MOST_BYTES_OF_ALL = 80_000, 1_000_000
WIDTHS = range(300, 800)  # pixels; the help panel is about 350 wide, twice that on fine screens
STEPS = re.compile(r"^(\d)\. .+$", re.M)
LONG = 700  # words
README_PICTURES = ("demo_graph.png", "training_graph.png")


def size(png: bytes) -> tuple[int, int]:
    """Width and height, which stand in the first chunk of every PNG."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and png[12:16] == b"IHDR"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_every_node_of_the_pack_has_a_page():
    rooms = (ROOT / "nodes", ROOT / "craft_core" / "training" / "recipes")
    sources = [path.read_text("utf-8") for room in rooms for path in room.rglob("*.py")]
    ids = {node for source in sources for node in re.findall(r'node_id="(\w+)"', source)}
    assert ids and ids == set(NODES)


def test_the_readme_names_every_node():
    nodes = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [one for node in nodes.values() if (one := node["display_name"]) not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=NODES)
def test_a_page_begins_with_its_title_and_its_picture(page):
    title, nothing, picture, after, *_ = page.read_text("utf-8").split("\n")
    assert title.startswith("# ") and nothing == after == ""
    found = PICTURE.fullmatch(picture)
    assert found and found[2] == f"pictures/{page.stem}.png"
    assert len(found[1].split()) > 4  # describes what the picture shows


def test_a_long_page_begins_with_a_few_steps():
    long = [page for page in PAGES if len(page.read_text("utf-8").split()) > LONG]
    assert long
    for page in long:
        start, _, _ = page.read_text("utf-8").partition("\n## ")
        assert STEPS.findall(start) in ([*"123"], [*"1234"], [*"12345"]), page.name


@pytest.mark.parametrize("node", NODES)
def test_a_picture_is_a_light_png_as_wide_as_the_help_panel_shows(node):
    picture = (PICTURES / f"{node}.png").read_bytes()
    width, height = size(picture)
    assert width in WIDTHS and height > 100
    assert len(picture) <= MOST_BYTES


def test_no_picture_is_without_a_page_and_all_together_are_light():
    files = sorted(path for path in PICTURES.rglob("*") if path.is_file())
    assert [path.relative_to(PICTURES).as_posix() for path in files] == [f"{n}.png" for n in NODES]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES_OF_ALL


@pytest.mark.parametrize("language", sorted({page.stem for page in DOCS.glob("*/*.md")}))
def test_a_page_in_another_language_shows_the_same_picture(language):
    """The host puts the same folder before a picture's address, whatever the language."""
    for page in DOCS.glob(f"*/{language}.md"):
        addresses = [address for _, address in PICTURE.findall(page.read_text("utf-8"))]
        assert addresses == [f"pictures/{page.parent.name}.png"], page


@pytest.mark.parametrize("name", README_PICTURES)
def test_the_readme_shows_the_graphs(name):
    shown = dict(map(reversed, PICTURE.findall((ROOT / "README.md").read_text("utf-8"))))
    assert shown[f"docs/{name}"]
    picture = (ROOT / "docs" / name).read_bytes()
    assert size(picture)[0] > 1000 and len(picture) < 500_000


def test_the_scenes_hold_every_picture_and_no_other():
    graphs = [name.removesuffix(".png") for name in README_PICTURES]
    thumbnails = [path.stem for path in (ROOT / "workflows").glob("*_small_world.jpg")]
    assert known_pictures() == sorted([*NODES, *graphs, *thumbnails])
    scenes = json.loads((ROOT / "docs" / "pictures" / "scenes.json").read_text("utf-8"))
    assert all((ROOT / scene["workflow"]).is_file() for scene in scenes)


def test_an_unknown_picture_is_told_before_anything_starts(capsys):
    assert main(["pictures", "CRAFTRouter", "no-such"]) == 1
    error = capsys.readouterr().err
    assert "no picture called no-such" in error and "demo_graph" in error
