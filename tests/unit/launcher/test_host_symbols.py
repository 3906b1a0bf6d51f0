"""docs/host_symbols.md says what the code uses, and what a version's source has is read right."""

import os
from pathlib import Path

import pytest

from launcher.versions.host_symbols import PAGE, HostSource, used_symbols

SOURCE = {
    "folder/__init__.py": "from .inner import *\nKNOWN = 1\n",
    "folder/inner.py": "",
    "module.py": """
import os
try:
    from folder import KNOWN
except ImportError:
    KNOWN = None
if KNOWN:
    def under_a_condition(): pass
class Plain:
    size: int = 1
    def method(self): Plain.instance = self
class Child(Plain): pass
""",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> HostSource:
    tree = tmp_path_factory.mktemp("tree")
    for name, text in SOURCE.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(text, "utf-8")
    return HostSource(tree)


@pytest.mark.parametrize(
    "name",
    ["folder", "folder.KNOWN", "folder.anything", "folder.inner", "module", "module.os",
     "module.KNOWN", "module.under_a_condition", "module.Plain.size", "module.Plain.method",
     "module.Plain.instance", "module.Child.method"],
)  # fmt: skip
def test_a_name_that_is_there_is_found(source, name):
    assert source.has(name)


@pytest.mark.parametrize(
    "name", ["absent", "folder.inner.absent", "module.absent", "module.Plain.absent"]
)
def test_a_name_that_is_not_there_is_not(source, name):
    assert not source.has(name)


def test_names_are_read_through_short_ones(tmp_path):
    code = "import comfy.utils as u\nSHORT = u.Bar\nSHORT.start(); u.other.more\n"
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "a.py").write_text(code, "utf-8")
    for name in ("__init__.py", "comfy_adapter", "small_world"):
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    used = ["comfy.utils", "comfy.utils.Bar", "comfy.utils.Bar.start", "comfy.utils.other.more"]
    assert list(used_symbols(tmp_path)) == used


def table() -> dict[str, list[str]]:
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text("utf-8").splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows if row[0].startswith("`") and len(row) > 2}


def test_the_page_lists_what_the_code_uses():
    assert {name: row[-1] for name, row in table().items()} == {
        name: ", ".join(rooms) for name, rooms in used_symbols().items()
    }, "write it anew: python run.py host-symbols"


def test_the_tested_host_has_every_name():
    host = HostSource(Path(os.environ["COMFYUI_PATH"]))
    assert [name for name in used_symbols() if not host.has(name)] == []
    assert {row[-2] for row in table().values()} == {"x"}
