"""Every help page in Chinese has all that the English one has, with the page's own names."""

import json
import re
import unicodedata
from collections import Counter

import pytest

from launcher.paths import ROOT
from launcher.publish.locales import DEFINITIONS, LOCALES, PHRASES

DOCS = ROOT / "web" / "docs"
NODES = sorted(page.stem for page in DOCS.glob("*.md"))
CHINESE = re.compile(r"[\u4e00-\u9fff]")
HOST_NODES = {
    "加载CLIP视觉",
    "Checkpoint加载器（简易）",
    "CLIP文本编码",
    "K采样器（高级）",
    "UNet加载器",
    "VAE解码",
    "保存图像",
    "加载 LoRA 模型",
    "双模型 CFG 指导器",
    "绘制损失图",
    "自定义采样器（高级）",
    "预览任意",
    "预览图像",
}
GLOSS = re.compile(r" {2,}")  # what stands after code is said in the page's language
PARTS = {
    "headings": re.compile(r"^#+(?= )", re.M),
    "bullets": re.compile(r"^(?:-|\d\.) ", re.M),
    "pictures": re.compile(r"^!\[[^\]]+\](\(\S+\))$", re.M),
    "links": re.compile(r"(?<!!)\[([^\]]+\]\(\S+?\))"),
}


def english(node: str) -> str:
    return (DOCS / f"{node}.md").read_text("utf-8")


def chinese(node: str) -> str:
    return (DOCS / node / "zh.md").read_text("utf-8")


def names() -> dict[str, str]:
    return json.loads((LOCALES / "zh" / PHRASES).read_text("utf-8"))["names"]


def titles() -> dict[str, str]:
    nodes = json.loads((LOCALES / "zh" / DEFINITIONS).read_text("utf-8"))
    return {node: entry["display_name"] for node, entry in nodes.items()}


def shape(page: str) -> list[str]:
    """What each block of lines begins with: nothing for plain paragraphs."""
    blocks = re.split(r"\n{2,}", page.strip("\n"))
    return [re.match(r"(?:#+ |- |\d\. |\| |!\[|    )?", block)[0] for block in blocks]


def code_blocks(page: str) -> list[str]:
    lines = [line.strip() for line in page.split("\n") if line.startswith("    ")]
    return [GLOSS.split(line)[0] for line in lines]


def prose(page: str) -> str:
    return "\n".join(line for line in page.split("\n") if not line.startswith("    "))


def rows(page: str) -> list[str]:
    """The first column of all tables, without their heads."""
    found, lines = [], page.split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("| ") and not following.startswith("|---"):
            found.append(line.split(" | ")[0].removeprefix("| "))
    return found


def cells(page: str) -> list[int]:
    return [line.count("|") for line in page.split("\n") if line.startswith("|")]


def code_spans(page: str) -> Counter:
    return Counter(re.findall(r"`([^`]+)`", prose(page)))


def numbers(page: str) -> Counter:
    words = re.sub(r"`[^`]+`|\]\(\S+?\)", "", prose(page))
    return Counter(re.findall(r"(?<![A-Za-z.\d])\d+(?:\.\d+)*(?:e-\d+)?", words))


def labelled(ids: str) -> str:
    """Ids of the first column with what the page calls them, where it calls them otherwise."""
    own = ids.split(", ")
    found = [names()[one] for one in own if one in names()]
    return f"{ids}（{'、'.join(found)}）" if len(found) == len(own) and found != own else ids


def test_every_help_page_is_there_in_chinese_and_none_besides():
    assert NODES
    assert sorted(page.parent.name for page in DOCS.glob("*/zh.md")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_a_page_has_the_same_parts(node):
    for part, pattern in PARTS.items():
        assert pattern.findall(chinese(node)) == pattern.findall(english(node)), part


@pytest.mark.parametrize("node", NODES)
def test_a_page_has_the_same_paragraphs(node):
    assert shape(chinese(node)) == shape(english(node))


@pytest.mark.parametrize("node", NODES)
def test_a_page_has_the_same_tables(node):
    """Ids stay, followed by the page's name for them; a mode is named by its code."""
    assert cells(chinese(node)) == cells(english(node))
    for own, row in zip(rows(chinese(node)), rows(english(node)), strict=True):
        if "`" in row:
            assert code_spans(own) == code_spans(row)
        else:
            assert own == labelled(row)


@pytest.mark.parametrize("node", NODES)
def test_code_is_the_same(node):
    assert code_blocks(chinese(node)) == code_blocks(english(node))
    assert code_spans(chinese(node)) == code_spans(english(node))


@pytest.mark.parametrize("node", NODES)
def test_numbers_are_the_same(node):
    assert numbers(chinese(node)) == numbers(english(node))


@pytest.mark.parametrize("node", NODES)
def test_a_page_is_titled_and_names_nodes_and_inputs_as_the_page_does(node):
    page = chinese(node)
    assert page.startswith(f"# {titles()[node]}\n")
    known = {*titles().values(), *names().values(), *HOST_NODES, "该内容、该风格"}
    assert set(re.findall("“(.*?)”", page)) <= known
    for ids, labels in re.findall(r"\*\*([a-z_, ]+)\*\*（([^（）]*)）", page):
        own = labels.removesuffix("，建议使用").removesuffix("，可选")
        assert labelled(ids) == f"{ids}（{own}）"
    for one, label in re.findall(r"`([a-z_]+)`（([^（）]*)）", page):
        assert label not in names().values() or label == names()[one]


@pytest.mark.parametrize("node", NODES)
def test_a_page_is_in_chinese_down_to_every_line(node):
    for line in prose(chinese(node)).split("\n"):
        assert not line.strip("|- ") or CHINESE.search(line), line
        words = re.sub("`[^`]*`", "", line)
        assert not re.search("[A-Za-z]{3,} [a-z]{3,} [a-z]{3,}", words), line


@pytest.mark.parametrize("node", NODES)
def test_emphasis_ends_where_it_is_meant_to(node):
    """Beside Chinese stops and brackets Markdown may take stars for plain ones."""
    for line in prose(chinese(node)).split("\n"):
        line = re.sub("`[^`]*`", "x", line)
        opened: list[str] = []
        for stars in re.finditer(r"(?<=(.))?(\*+)(?=(.))?", f" {line} "):
            before, run, after = stars.groups()
            if opened and opened[-1] == run:
                assert flanks(after, before), f"does not end: {line}"
                opened.pop()
            elif flanks(before, after):
                opened.append(run)
        assert not opened, f"does not begin or end: {line}"


def flanks(outside: str, inside: str) -> bool:
    """Whether stars between them begin emphasis, or end it, seen from its end: CommonMark 6.2."""
    sign = {one: unicodedata.category(one)[0] in "PS" for one in (outside, inside)}
    return not inside.isspace() and (not sign[inside] or outside.isspace() or sign[outside])
