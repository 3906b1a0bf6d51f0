"""One word per thing: no two definitions share a name, and docs/glossary.md names what there is."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("craft_core", "comfy_adapter", "cli", "client", "nodes", "launcher")
APART = "small_world"  # a node pack of its own, which shares no function with ours
ENTRY = "main"  # what starts a program is called so everywhere
ROW = re.compile(r"^\| (.+?) \| (.+?) \| `([\w.]+)` \| `([\w/]+\.py)` \|$", re.M)
GLOSSARY = ROW.findall((ROOT / "docs" / "glossary.md").read_text("utf-8"))
GENERICS = {"Mapping", "Callable", "Literal", "dict", "tuple", "list", "Sequence", "Annotated"}


def trees(*packages: str) -> Iterator[tuple[str, ast.Module]]:
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text("utf-8"))


def assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def types_in(module: ast.Module) -> list[str]:
    """Public classes, and the type aliases: names in capitalised words that stand for a value."""
    found = [node.name for node in module.body if isinstance(node, ast.ClassDef)]
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            found += [name for name in assigned(node) if name[0].isupper() and name != name.upper()]
    return [name for name in found if not name.startswith("_")]


def functions_in(module: ast.Module) -> list[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    found = [node.name for node in module.body if isinstance(node, kinds)]
    return [name for name in found if not name.startswith("_") and name != ENTRY]


def doubles(names_in, *packages: str) -> dict[str, list[str]]:
    where = defaultdict(list)
    for file, module in trees(*packages):
        for name in names_in(module):
            where[name].append(file)
    assert where, "nothing was read"
    return {name: files for name, files in where.items() if len(files) > 1}


def test_every_public_class_and_type_alias_has_a_name_of_its_own():
    assert doubles(types_in, *PACKAGES, APART) == {}


def test_every_public_function_has_a_name_of_its_own():
    assert doubles(functions_in, *PACKAGES) == {}


def test_the_same_type_is_not_written_down_under_two_names():
    """Such as a mapping of layers to shapes: one alias, imported by all."""
    where = defaultdict(list)
    for file, module in trees(*PACKAGES):
        for node in module.body:
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Subscript):
                continue
            if isinstance(node.value.value, ast.Name) and node.value.value.id in GENERICS:
                for name in assigned(node):
                    if name in types_in(module):
                        where[ast.unparse(node.value)].append(f"{file}: {name}")
    assert where, "no type alias was read"
    assert {value: names for value, names in where.items() if len(names) > 1} == {}


def members(node: ast.ClassDef) -> set[str]:
    found = {name for one in node.body for name in assigned(one)}
    return found | {one.name for one in node.body if isinstance(one, ast.FunctionDef)}


@pytest.mark.parametrize("word, name, file", [(w, n, f) for w, _, n, f in GLOSSARY])
def test_the_glossary_names_what_the_file_defines(word, name, file):
    module = ast.parse((ROOT / file).read_text("utf-8"))
    owner, _, member = name.partition(".")
    assert owner in types_in(module), f"{word}: {file} defines no {owner}"
    if member:
        classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
        (found,) = (node for node in classes if node.name == owner)
        assert member in members(found), f"{word}: {owner} has no {member}"


def test_the_glossary_has_each_word_and_each_name_once():
    rows = [line for line in (ROOT / "docs" / "glossary.md").read_text("utf-8").splitlines()
            if line.startswith("|") and not line.startswith(("| word |", "|---"))]  # fmt: skip
    assert len(rows) == len(GLOSSARY) >= 40, "a row has a word, a meaning, a name and a file"
    for column in (0, 2):
        entries = [row[column] for row in GLOSSARY]
        assert len(set(entries)) == len(entries)
