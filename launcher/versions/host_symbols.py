"""docs/host_symbols.md: every name of ComfyUI that the pack uses, and the versions that have it.

The names are read from the code: what is imported from the host's modules, and what is asked of an
imported module (`comfy.utils.ProgressBar`). Whether a version has a name is read from its source
too, so that no version need be started; versions that the matrix cannot run can be read alone.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import LaunchError
from ..paths import ROOT
from ..terminal import say
from .host_source import Folder, HostSource, files_at

PAGE = ROOT / "docs" / "host_symbols.md"
ROOMS = ("__init__.py", "nodes", "comfy_adapter", "small_world")
NOT_RUN = ("small_world/train", "small_world/world")  # no part of what a user's ComfyUI loads
HOST_ROOTS = {
    "app",
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
READ = " (read)"  # behind a version that was read and not run
UNKNOWN = "?"
HEAD = """# What the pack uses of ComfyUI

Written by `python run.py host-symbols` from the pack's code and each version's source; a test keeps
the list of names and the column of the version that CI runs true. `x`: the version's source defines
the name; `-`: it does not, and the pack does without it there. What objects are asked for while the
pack runs (`model.clone()`) cannot be read like this: `python run.py matrix` runs the tests on the
older versions for that.

A version marked `(read)` was read and never run: `--source VERSION=FOLDER`, or `FOLDER@COMMIT` of a
git repository, adds its column, which stays when the page is written again without that source.
There `~` says that a function takes other arguments than in the newest version that was run, and
`?` that the pack began to use the name after the version was read.

"""

Columns = dict[str, dict[str, str]]
"""By the heading of a column, the mark of each name."""


def write_page(
    trees: Mapping[str, Path], sources: Mapping[str, str] | None = None, page: Path = PAGE
) -> None:
    """Write the page. trees: version -> its source tree, oldest first, of those that are run.
    sources: version -> where the source of one that is only read is (host_source.files_at);
    LaunchError where there is none."""
    twice = sorted(trees.keys() & (sources or {}).keys())
    if twice:
        raise LaunchError(f"ComfyUI {', '.join(twice)} is run: it needs no --source.")
    run = {version: HostSource(Folder(tree)) for version, tree in trees.items()}
    read = {version: HostSource(files_at(given)) for version, given in (sources or {}).items()}
    kept = columns(page.read_text("utf-8")) if page.is_file() else {}
    page.write_text(page_text(run, read, kept), "utf-8")
    say(f"wrote {page}")


def page_text(
    run: Mapping[str, HostSource], read: Mapping[str, HostSource], kept: Columns | None = None
) -> str:
    """The page as Markdown; a table of names and versions, with the rooms that use a name.

    run, read: versions by what was done with them, oldest first. kept: a page's columns, of which
    those of other versions that were read stay.
    """
    names = used_symbols()
    newest = list(run.values())[-1]
    marks = {
        version: {name: _mark(one.has(name)) for name in names} for version, one in run.items()
    }
    for heading, standing in (kept or {}).items():
        version = heading.removesuffix(READ)
        if version != heading and version not in run:
            marks[heading] = {name: standing.get(name, UNKNOWN) for name in names}
    for version, one in read.items():
        marks[version + READ] = {name: _compared(one, newest, name) for name in names}
    rows = [["name", *marks, "used in"], ["---"] * (len(marks) + 2)]
    for name, rooms in names.items():
        rows.append([f"`{name}`", *(own[name] for own in marks.values()), ", ".join(rooms)])
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _mark(there: bool) -> str:
    return "x" if there else "-"


def _compared(source: HostSource, newest: HostSource, name: str) -> str:
    changed = source.has(name) and source.arguments(name) != newest.arguments(name)
    return "~" if changed else _mark(source.has(name))


def columns(text: str) -> Columns:
    """The columns of a page, `used in` among them."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    if not rows:
        return {}
    headings, body = rows[0][1:], rows[2:]
    return {
        heading: {row[0].strip("`"): row[place] for row in body}
        for place, heading in enumerate(headings, 1)
    }


def used_symbols(root: Path = ROOT) -> dict[str, list[str]]:
    """Dotted host name -> the pack's rooms that use it, both sorted."""
    found: dict[str, set[str]] = {}
    for file in _files(root):
        place = file.relative_to(root).parts[0]
        for name in _names(ast.parse(file.read_text("utf-8"))):
            found.setdefault(name, set()).add(place)
    return {name: sorted(found[name]) for name in sorted(found)}


def _files(root: Path) -> Iterator[Path]:
    for room in ROOMS:
        place = root / room
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if not file.relative_to(root).as_posix().startswith(NOT_RUN):
                yield file


def _names(tree: ast.AST) -> Iterator[str]:
    """What a file imports from the host, and asks of the host's modules it has imported."""
    modules: dict[str, str] = {}  # local name -> dotted module
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                if _is_host(one.name):
                    modules[one.asname or one.name.split(".")[0]] = (
                        one.name if one.asname else one.name.split(".")[0]
                    )
                    yield one.name
        elif isinstance(node, ast.ImportFrom) and not node.level and _is_host(node.module or ""):
            for one in node.names:
                modules[one.asname or one.name] = f"{node.module}.{one.name}"
                yield f"{node.module}.{one.name}"
    for node in ast.walk(tree):  # short names: _WRAPPERS = comfy.patcher_extension.WrappersMP
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
            for target, name in zip(node.targets, _asked(node.value, modules), strict=False):
                if isinstance(target, ast.Name):
                    modules[target.id] = name
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            yield from _asked(node, modules)


def _asked(node: ast.Attribute, modules: Mapping[str, str]) -> Iterator[str]:
    parts: list[str] = []
    at: ast.expr = node
    while isinstance(at, ast.Attribute):
        parts.append(at.attr)
        at = at.value
    if isinstance(at, ast.Name) and at.id in modules and not node.attr.startswith("__"):
        yield ".".join([modules[at.id], *reversed(parts)])


def _is_host(module: str) -> bool:
    return module.split(".")[0] in HOST_ROOTS
