"""A version of ComfyUI, asked for names in its source text; nothing of it is imported or run.

The source is a folder, or a commit of a git repository, of which no working tree is needed.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Protocol

from ..errors import LaunchError


class SourceFiles(Protocol):
    """The files of a source, by their paths with `/`."""

    def has_file(self, path: str) -> bool: ...

    def has_folder(self, path: str) -> bool: ...

    def read(self, path: str) -> str: ...


class Folder:
    """A source that lies in a folder."""

    def __init__(self, place: Path):
        self._place = place

    def has_file(self, path: str) -> bool:
        return (self._place / path).is_file()

    def has_folder(self, path: str) -> bool:
        return (self._place / path).is_dir()

    def read(self, path: str) -> str:
        return (self._place / path).read_text("utf-8")


class Commit:
    """A source that is a commit of a git repository; LaunchError where there is none of that name.

    repository: its folder, or its git directory. revision: whatever git takes for a commit.
    """

    def __init__(self, repository: Path, revision: str):
        self._at = ["git", "-C", str(repository)]
        self._revision = f"{revision}^{{commit}}"
        try:
            self._git("rev-parse", "--verify", "--quiet", "--end-of-options", self._revision)
        except (OSError, subprocess.CalledProcessError) as error:
            raise LaunchError(f"git finds no commit {revision!r} in {repository}.") from error

    def has_file(self, path: str) -> bool:
        return path in self._names

    def has_folder(self, path: str) -> bool:
        return path in self._folders

    def read(self, path: str) -> str:
        return self._git("cat-file", "blob", f"{self._revision}:{path}")

    @cached_property
    def _names(self) -> set[str]:
        listed = self._git("ls-tree", "-r", "-z", "--full-tree", "--name-only", self._revision)
        return set(listed.split("\0")) - {""}

    @cached_property
    def _folders(self) -> set[str]:
        return {"/".join(name.split("/")[:end]) for name in self._names
                for end in range(1, name.count("/") + 1)}  # fmt: skip

    def _git(self, *command: str) -> str:
        done = subprocess.run([*self._at, *command], capture_output=True, check=True)
        return done.stdout.decode("utf-8")


def files_at(given: str) -> SourceFiles:
    """A source as a user names it: a folder, or a repository with `@` and a commit behind it."""
    folder = Path(given)
    if folder.is_dir():
        return Folder(folder)
    place, at, revision = given.rpartition("@")
    if at and Path(place).is_dir():
        return Commit(Path(place), revision)
    raise LaunchError(
        f"There is no folder {given}; a source is a folder of ComfyUI's source, or a git "
        "repository and a commit of it: FOLDER@COMMIT."
    )


_ANYTHING = ast.Pass()
"""Stands for what a source does not tell: an attribute of a value, or of what lies outside."""


class HostSource:
    """A version's source, asked by dotted names."""

    def __init__(self, files: SourceFiles):
        self._files = files
        self._scopes: dict[str, dict[str, ast.AST]] = {}
        self._stars: dict[str, list[ast.ImportFrom]] = {}

    def has(self, name: str) -> bool:
        """Whether the dotted name is a module, or is defined in one or in a class of one, or is
        imported by one; what a class inherits counts as there."""
        return self._find(name, set()) is not None

    def arguments(self, name: str) -> str | None:
        """What a function takes, or a class to be made, as its source says but for types; None for
        other names, and where a class inherits that."""
        found = self._find(name, set())
        if isinstance(found, ast.ClassDef):
            found = _defined(found.body).get("__init__")
        if isinstance(found, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return ast.unparse(_without_types(found.args))
        return None

    def _find(self, name: str, asked: set[str]) -> ast.AST | None:
        """What defines a name; _ANYTHING where the source does not tell. asked: the names that led
        here, which are there only if this one is."""
        file, rest = self._place(name)
        if file is None or name in asked:
            return None
        if not rest or not self._files.has_file(file):
            return None if rest else _ANYTHING
        scope, asked = self._scope(file), asked | {name}
        if rest[0] not in scope:
            return self._starred(file, rest, asked)
        for depth, part in enumerate(rest):
            node = scope.get(part)
            if depth == 0 and isinstance(node, (ast.Import, ast.ImportFrom)):
                return self._imported(file, node, rest, asked)
            if node is None or depth == len(rest) - 1:
                return node
            if not isinstance(node, ast.ClassDef):
                return None if isinstance(node, ast.FunctionDef) else _ANYTHING
            scope = _defined(node.body) | _given(node)
            if node.bases and rest[depth + 1] not in scope:
                return _ANYTHING
        return None

    def _imported(
        self, file: str, node: ast.Import | ast.ImportFrom, rest: list[str], asked: set[str]
    ) -> ast.AST | None:
        for one in node.names:
            if (one.asname or one.name.split(".")[0]) == rest[0]:
                start = one.name if one.asname else rest[0]
                if isinstance(node, ast.ImportFrom):
                    start = f"{_module_of(file, node)}.{one.name}"
                return self._elsewhere(start, rest[1:], asked)
        return None

    def _starred(self, file: str, rest: list[str], asked: set[str]) -> ast.AST | None:
        """A name in what a file imports with a star."""
        for node in self._stars[file]:
            module = _module_of(file, node)
            found = self._elsewhere(module, rest, asked) if self._gives(module, rest[0]) else None
            if found is not None:
                return found
        return None

    def _elsewhere(self, start: str, rest: list[str], asked: set[str]) -> ast.AST | None:
        """A name in another module; what is no part of the source may have any."""
        if self._place(start.split(".")[0])[0] is None:
            return _ANYTHING
        return self._find(".".join([start, *rest]), asked)

    def _gives(self, module: str, name: str) -> bool:
        """Whether a star takes the name from a module, as far as its `__all__` says."""
        file, rest = self._place(module)
        if file is None or rest or not self._files.has_file(file):
            return True
        node = self._scope(file).get("__all__")
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Tuple)):
            return name in {ast.literal_eval(one) for one in node.value.elts}
        return True

    def _place(self, name: str) -> tuple[str | None, list[str]]:
        """The module that a name begins with, and what follows."""
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            file = self._module(parts[:cut])
            if file is not None:
                return file, parts[cut:]
        return None, parts

    def _module(self, parts: list[str]) -> str | None:
        place = "/".join(parts)
        for file in (f"{place}.py", f"{place}/__init__.py"):
            if self._files.has_file(file):
                return file
        return place if self._files.has_folder(place) else None

    def _scope(self, file: str) -> dict[str, ast.AST]:
        """What a module defines; its imports with a star are noted on the way."""
        if file not in self._scopes:
            tree = ast.parse(self._files.read(file))
            self._scopes[file] = _defined(tree.body)
            self._stars[file] = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
            ]
        return self._scopes[file]


def _module_of(file: str, node: ast.ImportFrom) -> str:
    """The dotted name of the module that a file's `from ... import` names."""
    folders = file.split("/")[:-1]
    start = folders[: len(folders) - node.level + 1] if node.level else []
    return ".".join([*start, *([node.module] if node.module else [])])


def _without_types(given: ast.arguments) -> ast.arguments:
    """The names and defaults alone."""
    for one in ast.walk(given):
        if isinstance(one, ast.arg):
            one.annotation = None
    return given


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
