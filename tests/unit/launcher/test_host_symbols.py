"""docs/host_symbols.md says what the code uses, and what a version's source has is read right."""

import os
import subprocess
from pathlib import Path

import pytest

from launcher import commands
from launcher.commands import main
from launcher.errors import LaunchError
from launcher.run.environment import PINNED
from launcher.versions import host_symbols
from launcher.versions.host_source import Folder, HostSource, files_at
from launcher.versions.host_symbols import PAGE, READ, columns, page_text, used_symbols, write_page

SOURCE = {
    "folder/__init__.py": "from .inner import *\nfrom . import inner as short\nKNOWN = 1\n",
    "folder/inner.py": "from .deeper import *\n__all__ = ['shown']\ndef shown(a, b=1): pass\n"
    "def hidden(): pass\n",
    "folder/deeper.py": "from ..module import Plain as Renamed\nfrom . import lost\n",
    "outer/__init__.py": "from torch import *\n",
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
    def __init__(self, size: int, *, name="a"): Plain.instance = self
    async def method(self, given: str): pass
class Child(Plain): pass
""",
}


def written(tree: Path, files=SOURCE) -> Path:
    for name, text in files.items():
        (tree / name).parent.mkdir(exist_ok=True, parents=True)
        (tree / name).write_text(text, "utf-8")
    return tree


def committed(tree: Path) -> Path:
    """A git repository whose only commit has those files, and whose folder has none."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "a"], ["rm", "-qr", "."]):
        subprocess.run(["git", "-C", str(tree), *command], check=True)
    return tree


@pytest.fixture(scope="module", params=["folder", "repository", "git directory"])
def source(request, tmp_path_factory) -> HostSource:
    tree = written(tmp_path_factory.mktemp("tree"))
    if request.param == "folder":
        return HostSource(files_at(str(tree)))
    place = committed(tree) / (".git" if request.param == "git directory" else "")
    return HostSource(files_at(f"{place}@HEAD"))


@pytest.mark.parametrize(
    "name",
    ["folder", "folder.KNOWN", "folder.shown", "folder.inner", "folder.inner.hidden",
     "folder.short.shown", "folder.deeper.Renamed.size", "folder.deeper", "outer.anything",
     "module", "module.os", "module.os.path.join", "module.KNOWN", "module.under_a_condition",
     "module.Plain.size", "module.Plain.method", "module.Plain.instance", "module.Child.method"],
)  # fmt: skip
def test_a_name_that_is_there_is_found(source, name):
    assert source.has(name)


@pytest.mark.parametrize(
    "name",
    ["absent", "folder.absent", "folder.hidden", "folder.inner.absent", "folder.short.absent",
     "folder.deeper.lost", "folder.deeper.Renamed.absent", "module.absent", "module.Plain.absent"],
)  # fmt: skip
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


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("folder.shown", "a, b=1"), ("module.Plain", "self, size, *, name='a'"),
     ("module.Plain.method", "self, given"), ("module.Child", None), ("module.KNOWN", None),
     ("module", None), ("absent", None)],
)  # fmt: skip
def test_what_a_function_takes_is_read_without_types(source, name, arguments):
    assert source.arguments(name) == arguments


@pytest.mark.parametrize(
    ("given", "says"), [("absent", "no folder"), ("absent@HEAD", "no folder"), (".@none", "commit")]
)
def test_a_source_that_is_not_there_is_said(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(committed(written(tmp_path)))
    with pytest.raises(LaunchError, match=says):
        files_at(given)


@pytest.mark.parametrize("given", ["0.33.0", "=place", "0.33.0=", "a|b=place"])
def test_a_source_without_a_version_or_place_is_said(given, capsys):
    with pytest.raises(SystemExit):
        main(["host-symbols", "--source", given])
    assert "is not VERSION=PLACE" in capsys.readouterr().err


def test_the_command_hands_on_the_sources_that_are_only_read(monkeypatch):
    handed = []
    monkeypatch.setattr(commands, "trees", lambda: {"1": Path("tree")})
    monkeypatch.setattr(commands, "write_page", lambda *given: handed.append(given))
    options = ["--source", "2=a/b@v2", "--source", "3=c=d"]
    assert main(["host-symbols", *options]) == 0
    assert handed == [({"1": Path("tree")}, {"2": "a/b@v2", "3": "c=d"})]


OLD = {"module.py": "def here(a): pass\ndef gone(a): pass\ndef other(a): pass\n"}
NEW = {"module.py": "def here(a): pass\ndef other(a, b): pass\n"}


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """The sources of two versions, where the pack uses what one of them has."""
    used = {f"module.{name}": ["nodes"] for name in ("gone", "here", "other")}
    monkeypatch.setattr(host_symbols, "used_symbols", lambda: used)
    return {name: written(tmp_path / name, files) for name, files in (("old", OLD), ("new", NEW))}


def test_a_version_that_is_only_read_has_a_column_that_says_so(places, tmp_path):
    page = tmp_path / "page.md"
    write_page({"1": places["old"]}, {"2": str(places["new"])}, page)
    found = columns(page.read_text("utf-8"))
    assert list(found) == ["1", f"2{READ}", "used in"]
    assert found["1"] == {"module.gone": "x", "module.here": "x", "module.other": "x"}
    assert found[f"2{READ}"] == {"module.gone": "-", "module.here": "x", "module.other": "~"}


def test_a_column_that_was_read_stays_without_its_source_until_the_version_is_run(
    places, tmp_path, monkeypatch
):
    page, run = tmp_path / "page.md", {"1": places["old"]}
    write_page(run, {"2": str(places["new"]), "3": str(places["old"])}, page)
    read = columns(page.read_text("utf-8"))
    monkeypatch.setattr(
        host_symbols, "used_symbols", lambda: {"module": ["nodes"], "module.gone": ["nodes"]}
    )
    write_page(run, page=page)
    found = columns(page.read_text("utf-8"))
    assert list(found) == list(read)
    assert found[f"2{READ}"] == {"module": "?", "module.gone": read[f"2{READ}"]["module.gone"]}
    write_page({**run, "2": places["new"]}, page=page)
    assert list(columns(page.read_text("utf-8"))) == ["1", "2", f"3{READ}", "used in"]


def test_a_version_that_is_run_needs_no_source(places, tmp_path):
    with pytest.raises(LaunchError, match="1 is run"):
        write_page({"1": places["old"]}, {"1": str(places["new"])}, tmp_path / "page.md")


def standing() -> dict[str, dict[str, str]]:
    return columns(PAGE.read_text("utf-8"))


def test_the_page_lists_what_the_code_uses():
    assert standing()["used in"] == {
        name: ", ".join(rooms) for name, rooms in used_symbols().items()
    }, "write it anew: python run.py host-symbols"


def test_the_tested_host_has_every_name():
    host = HostSource(Folder(Path(os.environ["COMFYUI_PATH"])))
    assert [name for name in used_symbols() if not host.has(name)] == []
    assert set(standing()[PINNED.version].values()) == {"x"}


def test_the_page_is_what_its_columns_make_of_it():
    """Also without the sources of versions that were only read."""
    host = HostSource(Folder(Path(os.environ["COMFYUI_PATH"])))
    written_anew = columns(page_text({PINNED.version: host}, {}, standing()))
    assert written_anew == {
        heading: marks
        for heading, marks in standing().items()
        if heading in (PINNED.version, "used in") or heading.endswith(READ)
    }
