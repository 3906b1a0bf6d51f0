"""What the pages for readers name is there: links, files and folders, commands with their flags."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest
from craft_lora_pack.cli.command import parser_of
from craft_lora_pack.cli.main import commands_of

from launcher import commands as launcher
from launcher.paths import ROOT
from small_world.train import __main__ as small_world

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "small_world" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
NAMED = re.compile(r"[\w./-]*\w\.(?:py|md|json|sh|svg|png|yaml)|[\w.-]+(?:/[\w.-]+)*/")
ELSEWHERE = {"install.py", "extra_model_paths.yaml", "queue_workflow/"}  # named, not in the pack
MOST_WORDS = 20  # of a cell of a table
page_of = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ {4}.*$|^```.*?^```", "", text_of(page), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What follows # in an address, as GitHub makes it of a heading."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@page_of
def test_every_link_leads_somewhere(page):
    broken = []
    for address in LINK.findall(prose_of(page)):
        if "://" in address:
            continue
        name, _, anchor = address.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(address)
    assert broken == []


def places() -> set[str]:
    """Every file and folder of the pack, from the root and from each folder on the way down."""
    found = set()
    for top in ROOT.iterdir():
        if top.name in {".git", "output", "__pycache__"}:
            continue
        for path in [top, *top.rglob("*")]:
            parts = path.relative_to(ROOT).parts
            end = "/" if path.is_dir() else ""
            found |= {"/".join(parts[start:]) + end for start in range(len(parts))}
    return found


PLACES = places()


@page_of
def test_every_file_and_folder_that_a_page_names_is_in_the_pack(page):
    named = {span for span in SPAN.findall(prose_of(page)) if NAMED.fullmatch(span)}
    assert sorted(named - PLACES - ELSEWHERE) == []


def shell_lines(page: Path) -> list[str]:
    """The commands of a page's indented blocks, continued lines joined and variables filled in."""
    block = "\n".join(re.findall(r"^ {4}(.*)$", text_of(page), re.M))
    lines = re.sub(r"\\\n\s*", "", block).split("\n")
    values: dict[str, str] = {}
    filled = []
    for line in lines:
        line = re.sub(r"\$(\w+)", lambda found: values.get(found[1], found[0]), line)
        given = re.fullmatch(r'([A-Z]+)="?([^"]*)"?', line)
        if given:
            values[given[1]] = given[2]
        else:
            filled.append(line)
    return filled


def commands(page: Path, program: str) -> list[list[str]]:
    """The words behind `program` in each command of a page.

    A command inside a sentence is often cut short, so it ends in dots here, as do those in blocks
    that the page itself cuts short.
    """
    found = [
        shlex.split(line.removeprefix(program), comments=True)
        for line in shell_lines(page)
        if line.startswith(program)
    ]
    for span in SPAN.findall(re.sub(r"\s*\n\s*", " ", prose_of(page))):
        if span.startswith(program):
            found.append([*span.removeprefix(program).split(), "..."])
    return found


def shown_words(words: list[str]) -> list[str] | None:
    """The words before the first flag of a command that is cut short; None for a whole command."""
    cut = [i for i, word in enumerate(words) if word == "..." or "|" in word or word == "--help"]
    if not cut:
        return None
    flags = [i for i, word in enumerate(words) if word.startswith("-") or word == "..."]
    return words[: min(flags, default=len(words))]


CORE, RUN, WORLD = "python -m craft_core ", "python run.py ", "python -m small_world.train "
ARGUMENT_FOLLOWS = ("small-world", "workflow", "world", "bench")  # of run.py


@page_of
def test_a_command_of_the_pack_exists_and_takes_these_flags(page):
    known = [command.words for command in commands_of()]
    for words in commands(page, CORE):
        shown = shown_words(words)
        if shown is None:
            options = parser_of(commands_of()).parse_args(words)
            assert options.command.words == tuple(words[: len(options.command.words)])
        else:
            choices = [word.split("|") for word in shown]
            assert any(
                all(word in names for word, names in zip(command, choices, strict=False))
                for command in known
            ), words


@page_of
def test_a_command_of_the_launcher_exists_and_takes_these_flags(page):
    for words in commands(page, RUN):
        shown = shown_words(words)
        own, passed_on = launcher._split(words if shown is None else shown)
        if shown is None or own[-1:] not in [[word] for word in ARGUMENT_FOLLOWS]:
            launcher._parser().parse_args(own)
        if own[:1] == ["bench"] and len(own) > 1:
            assert (ROOT / "benchmarks" / f"{own[1]}.py").is_file()
            flags = {word for word in passed_on if word.startswith("--")}
            assert flags <= set(BENCHMARK_FLAGS), words


BENCHMARK_FLAGS = re.findall(
    r'add_argument\("(--[\w-]+)"',
    "".join(path.read_text("utf-8") for path in (ROOT / "benchmarks").glob("*.py")),
)


@page_of
def test_a_command_of_the_small_world_exists_and_takes_these_flags(page, monkeypatch):
    for words in commands(page, WORLD):
        shown = shown_words(words)
        given = [*(words if shown is None else shown), "--comfyui", "FOLDER"]
        numbers = ["1" if word == "N" else word for word in given]
        monkeypatch.setattr(sys, "argv", ["train", *numbers])
        assert small_world.parse().what == given[0]


@page_of
def test_a_table_cell_is_a_phrase(page):
    rows = re.findall(r"^\|(.+)\|$", text_of(page), re.M)
    cells = [cell for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert [cell for cell in cells if len(cell.split()) > MOST_WORDS] == []


ADAPTER = ROOT / "comfy_adapter"


def rooms_of_adapter() -> dict[str, set[str]]:
    """What each folder of the adapter, and headless.py, imports of the others."""
    found: dict[str, set[str]] = {}
    for file in ADAPTER.rglob("*.py"):
        here = file.relative_to(ADAPTER).parts
        if here == ("__init__.py",):
            continue
        room = found.setdefault(here[0] if len(here) == 1 else f"{here[0]}/", set())
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == len(here):
                room.add((node.module or "").split(".")[0])
    return found


def rows_below(heading: str) -> list[list[str]]:
    """The rows of the table of docs/architecture.md whose first cell is `heading`."""
    table = text_of(ROOT / "docs" / "architecture.md").partition(f"| {heading} |")[2]
    lines = table.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_architecture_page_has_the_imports_inside_the_adapter():
    said = {
        SPAN.findall(folder)[0]: set(SPAN.findall(imported))
        for folder, _, imported in rows_below("folder")
    }
    assert said == rooms_of_adapter()


def test_the_architecture_page_has_every_folder_of_code():
    said = {span for room, *_ in rows_below("room") for span in SPAN.findall(room)}
    folders = {f"{file.parent.name}/" for file in ROOT.glob("*/__init__.py")}
    assert folders | {"web/", "tests/", "benchmarks/", "run.py"} == said


def test_the_architecture_page_has_every_part_of_the_core():
    page = text_of(ROOT / "docs" / "architecture.md")
    levels = page.partition("**Inside the core**")[2].partition("**Inside the adapter**")[0]
    said = set(SPAN.findall(levels))
    parts = {file.stem for file in (ROOT / "craft_core").glob("[!_]*.py")}
    parts |= {file.parent.name for file in (ROOT / "craft_core").glob("*/__init__.py")}
    assert parts <= said
