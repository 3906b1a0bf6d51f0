"""docs/host_symbols.md: every name of ComfyUI that the pack uses, and the versions that have it.

The names are read from the code: what is imported from the host's modules, and what is asked of an
imported module (`comfy.utils.ProgressBar`). Whether a version has a name is read from its source
too, so that no version need be started.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..paths import ROOT
from ..terminal import say

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
HEAD = """# What the pack uses of ComfyUI

Written by `python run.py host-symbols` from the pack's code and each version's source; a test keeps
the list and the last column true. `x`: the version's source defines the name; `-`: it does not, and
the pack does without it there. What objects are asked for while the pack runs (`model.clone()`)
cannot be read like this: `python run.py matrix` runs the tests on the older versions for that.

"""


def write_page(trees: Mapping[str, Path], page: Path = PAGE) -> None:
    """Write the page. trees: version -> its source tree, oldest first."""
    page.write_text(page_text(trees), "utf-8")
    say(f"wrote {page}")


def page_text(trees: Mapping[str, Path]) -> str:
    """The page as Markdown; a table of names and versions, with the rooms that use a name."""
    sources = {version: HostSource(tree) for version, tree in trees.items()}
    rows = [["name", *sources, "used in"], ["---"] * (len(sources) + 2)]
    for name, rooms in used_symbols().items():
        marks = ["x" if source.has(name) else "-" for source in sources.values()]
        rows.append([f"`{name}`", *marks, ", ".join(rooms)])
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


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


class HostSource:
    """A version's source tree, asked by name; nothing of it is imported."""

    def __init__(self, tree: Path):
        self.tree = tree
        self._scopes: dict[Path, dict[str, ast.AST]] = {}

    def has(self, name: str) -> bool:
        """Whether the dotted name is a module, or is defined in one, or in a class of one."""
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            file = self._module(parts[:cut])
            if file is not None:
                return self._inside(file, parts[cut:])
        return False

    def _module(self, parts: list[str]) -> Path | None:
        place = self.tree.joinpath(*parts)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
        return place if place.is_dir() else None

    def _inside(self, file: Path, rest: list[str]) -> bool:
        if not rest or file.is_dir():
            return not rest
        scope = self._scope(file)
        if "*" in scope and rest[0] not in scope:
            return True  # a star import: anything may come from it
        for depth, part in enumerate(rest):
            if part not in scope:
                return False
            node = scope[part]
            if not isinstance(node, ast.ClassDef):
                return depth == len(rest) - 1 or not isinstance(node, ast.FunctionDef)
            if node.bases and depth < len(rest) - 1 and rest[depth + 1] not in _defined(node.body):
                return True  # may be inherited
            scope = _defined(node.body) | _given(node)
        return True

    def _scope(self, file: Path) -> dict[str, ast.AST]:
        if file not in self._scopes:
            self._scopes[file] = _defined(ast.parse(file.read_text("utf-8")).body)
        return self._scopes[file]


def _given(made: ast.ClassDef) -> dict[str, ast.AST]:
    """What a class's own methods set on it: `PromptServer.instance = self`."""
    return {
        target.attr: node
        for node in ast.walk(made)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Name)
        and target.value.id == made.name
    }


def _defined(body: Iterable[ast.stmt]) -> dict[str, ast.AST]:
    """The names that statements define, through conditions and tries, with what defines them."""
    names: dict[str, ast.AST] = {}
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for one in node.names:
                names[one.asname or one.name.split(".")[0]] = node
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
            for part in ("body", "orelse", "finalbody"):
                names |= _defined(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                names |= _defined(handler.body)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for one in ast.walk(target):
                    if isinstance(one, ast.Name):
                        names[one.id] = node
    return names
