"""Imports go down only: nodes -> comfy_adapter -> craft_core, cli -> client -> craft_core, and
inside the core likewise. Every folder is small enough to be seen at once."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REACH = {  # what each room may use besides itself
    "craft_core": (),
    "client": ("craft_core",),
    "cli": ("client", "craft_core"),
    "comfy_adapter": ("client", "craft_core"),
    "nodes": ("comfy_adapter", "craft_core"),
}
ROOMS = tuple(REACH)
PACK = "craft_lora_pack"  # what the launcher calls the clone as one package
OUTSIDE = {"launcher", "small_world", "tests", "benchmarks", *ROOMS}
HOST = {
    "comfy",
    "comfy_api",
    "comfy_config",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
MENU_MAY_USE = {"comfy_api"}  # the schema language of the menus
LEVELS = {
    "types": 0,
    "time": 0,
    "errors": 0,
    "messages": 0,
    "starting": 0,
    "papers": 0,
    "file_hash": 0,
    "json_text": 0,
    "tensor_file": 0,
    "writing": 0,
    "registry": 0,
    "families": 0,
    "lora": 1,
    "projection": 2,
    "routing": 2,
    "encoder": 2,
    "schedule": 2,
    "guidance": 2,
    "fusion": 2,
    "merging": 2,
    "frequency": 2,
    "baking": 3,
    "training": 3,
    "evaluation": 3,
    "search": 3,
    "presets": 3,
    "requests": 4,
}
ENTRIES = {"__init__", "__main__"}  # entry points; those of the core may import all of it
PLAIN = ("errors", "messages", "starting")  # of the core, for those that run without torch
OF_CORE = {("craft_core", name) for name in PLAIN}
QUIET = {"argparse", "http", "socket", "tqdm", "urllib"}  # modules that mathematics does not need
HOUSE = (*ROOMS, "benchmarks", "docs", "launcher", "locales", "small_world", "tests", "web")
KINDS = {".py", ".js", ".mjs", ".json", ".md"}
DOORS = ENTRIES | {"conftest"}
DATA = {"web/docs"}  # a help page for each node
MOST_FILES = 12  # of one kind in one folder, besides its doors


def imports(file: Path) -> Iterator[tuple[str, ...]]:
    """What a file imports, as absolute parts; ours begin with the empty part (the pack)."""
    here = file.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            if node.level == 0:
                yield module
                continue
            base = ("", *here[: len(here) - node.level], *module)
            yield from ((*base, alias.name) for alias in node.names)


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def violations(folder: str, allowed) -> list[str]:
    files = python_files(folder)
    assert files, f"{folder}/ holds no Python file"
    return [
        f"{file.relative_to(ROOT)} imports {'.'.join(target)}"
        for file in files
        for target in imports(file)
        if not allowed(file, target)
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_itself_and_the_rooms_below(room):
    reach = (room, *REACH[room])
    assert violations(room, lambda _, target: target[0] != "" or target[1] in reach) == []


@pytest.mark.parametrize("room", ROOMS)
def test_inside_the_pack_every_import_of_ours_is_relative(room):
    """A bare `nodes` is the host's; a bare `craft_core` would be a second copy of ours."""
    ours = OUTSIDE - HOST
    assert violations(room, lambda _, target: target[0] not in ours) == []


@pytest.mark.parametrize("room", ["craft_core", "client", "cli"])
def test_only_the_adapter_and_the_menus_import_the_host(room):
    assert violations(room, lambda _, target: target[0] not in HOST) == []


def test_the_core_reads_no_flags_opens_no_sockets_and_prints_nothing():
    files = [file for file in FILES if file.name != "__main__.py"]
    printing = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert printing == []
    assert violations("craft_core", lambda _, target: target[0] not in QUIET) == []


def test_no_folder_holds_more_than_a_dozen_files_of_one_kind():
    sources = [file for room in HOUSE for file in (ROOT / room).rglob("*") if file.suffix in KINDS]
    assert {file.suffix for file in sources} == KINDS
    sizes = Counter(
        (file.parent.relative_to(ROOT).as_posix(), file.suffix)
        for file in sources
        if file.stem not in DOORS
    )
    large = {place: n for place, n in sizes.items() if n > MOST_FILES and place[0] not in DATA}
    assert large == {}


def test_the_menus_reach_the_host_only_through_the_adapter():
    allowed = HOST - MENU_MAY_USE
    assert violations("nodes", lambda _, target: target[0] not in allowed) == []


def test_inside_the_core_imports_go_down_and_families_never_meet():
    def allowed(file: Path, target: tuple[str, ...]) -> bool:
        own = file.relative_to(ROOT / "craft_core").with_suffix("").parts[0]
        if target[:2] != ("", "craft_core") or own in ENTRIES:
            return True
        other = target[2]
        return other == own or LEVELS[other] < LEVELS[own] or LEVELS[other] == LEVELS[own] == 0

    assert violations("craft_core", allowed) == []


def test_every_part_of_the_core_has_its_level():
    parts = {file.relative_to(ROOT / "craft_core").with_suffix("").parts[0] for file in FILES}
    assert parts - ENTRIES <= set(LEVELS)


FILES = python_files("craft_core")


KNOWN = set(sys.stdlib_module_names) | {"__future__"}


def test_the_launcher_uses_the_standard_library_and_the_room_that_speaks_to_a_server():
    shared = {(PACK, "client"), *((PACK, *place) for place in OF_CORE)}

    def allowed(_: Path, target: tuple[str, ...]) -> bool:
        if target[0] == "":
            return target[1] == "launcher"
        return target[0] in KNOWN or bool({target[:2], target[:3]} & shared)

    assert violations("launcher", allowed) == []
    assert all(target[0] in KNOWN | {"launcher"} for target in imports(ROOT / "run.py"))


def test_the_client_and_what_the_core_says_use_the_standard_library():
    """The launcher runs them before anything is installed."""

    def allowed(_: Path, target: tuple[str, ...]) -> bool:
        if target[0] == "":
            return target[1] == "client" or target[1:3] == ("craft_core", "errors")
        return target[0] in KNOWN

    assert violations("client", allowed) == []
    for name in PLAIN:
        file = ROOT / "craft_core" / f"{name}.py"
        assert all(allowed(file, target) for target in imports(file)), name
    assert not list(imports(ROOT / "craft_core" / "__init__.py"))
