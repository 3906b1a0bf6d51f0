"""What the Comfy registry asks of a pack, and what a user gets who installs ours from it.

The rules are those of docs.comfy.org/registry/specifications and of `comfy node publish`.
"""

import ast
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from test_architecture import ROOMS, ROOT, imports

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib  # type: ignore[no-redef]

FACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT, COMFY = FACTS["project"], FACTS["tool"]["comfy"]
IGNORED = [
    line
    for line in (ROOT / ".comfyignore").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
VERSION = re.compile(r"\d+\.\d+\.\d+")
NEEDED_VERSION = re.compile(r"(==|>=|<=|!=|~=|>|<)?\d+\.\d+\.\d+(-\w+)?")
MOST_BYTES = 24 * 2**20
LARGE = 2**20  # bytes; files above it are weights of the demo


def packaged() -> list[str]:
    """The files of the package: what git knows, without .comfyignore's folders and files."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [name for name in known.stdout.splitlines() if (ROOT / name).is_file()]
    return [name for name in files if not any(_hit(name, pattern) for pattern in IGNORED)]


def _hit(name: str, pattern: str) -> bool:
    return name.startswith(pattern) if pattern.endswith("/") else name == pattern


@pytest.fixture(scope="module")
def files() -> list[str]:
    return packaged()


def test_the_name_is_one_that_the_registry_takes():
    assert re.fullmatch(r"[a-z]([._-]?[a-z0-9])*", PROJECT["name"]) and len(PROJECT["name"]) < 100


def test_the_version_is_semantic_and_the_changelog_knows_it():
    assert VERSION.fullmatch(PROJECT["version"])
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert all(VERSION.fullmatch(heading) for heading in released)
    assert not released or released[0] == PROJECT["version"]  # none before the first release


def test_the_required_facts_are_there():
    assert PROJECT["description"] and PROJECT["requires-python"].startswith(">=")
    assert (ROOT / PROJECT["readme"]).is_file()
    assert "MIT License" in (ROOT / PROJECT["license"]["file"]).read_text("utf-8")
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", COMFY["PublisherId"])
    assert COMFY["DisplayName"]
    assert all(NEEDED_VERSION.fullmatch(part) for part in COMFY["requires-comfyui"].split(","))
    systems = [one for one in PROJECT["classifiers"] if one.startswith("Operating System :: ")]
    assert systems == ["Operating System :: OS Independent"]


def test_nothing_is_installed_beside_what_the_host_brings():
    assert PROJECT["dependencies"] == []
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert all(line.startswith("#") for line in lines)
    assert not [name for name in ("install.py", "uninstall.py") if (ROOT / name).exists()]


def test_addresses_that_only_a_publisher_knows_are_empty_or_whole():
    repository = PROJECT.get("urls", {}).get("Repository", "")
    assert not repository or re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", repository)
    icon = COMFY["Icon"]
    assert not icon or (
        repository and icon.startswith("https://") and icon.endswith("/docs/icon.svg")
    )


def test_the_icon_is_a_square_of_at_most_400_pixels():
    path = ROOT / "docs" / "icon.svg"
    icon = ElementTree.parse(path).getroot()
    assert icon.get("width") == icon.get("height") == "400"
    assert path.stat().st_size < 10_000 and "<script" not in path.read_text("utf-8")


def test_every_pattern_of_the_ignore_file_leaves_something_out():
    for pattern in IGNORED:
        assert (ROOT / pattern).is_dir() if pattern.endswith("/") else (ROOT / pattern).is_file()


def test_a_user_gets_all_that_the_pack_serves(files):
    for needed in (
        "__init__.py",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "pyproject.toml",
        "run.py",
    ):
        assert needed in files
    served = [ROOT / folder for folder in ("web", "workflows", "small_world/references", "locales")]
    for folder in served:
        own = [
            path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
        assert {path.relative_to(ROOT).as_posix() for path in own} <= set(files)


def test_no_file_of_the_package_imports_one_that_is_left_out(files):
    modules = {Path(name).with_suffix("").parts for name in files if name.endswith(".py")}
    modules |= {parts[:-1] for parts in modules if parts[-1] == "__init__"}
    missing = [
        f"{name} imports {'.'.join(target)}"
        for name in files
        if name.endswith(".py") and Path(name).parts[0] in {*ROOMS, "launcher", "small_world"}
        for target in imports(ROOT / name)
        if target[0] == "" and not {target[1:], target[1:-1]} & modules
    ]
    assert missing == []


def test_the_package_is_small_and_its_large_files_are_the_demos_weights(files):
    sizes = {name: (ROOT / name).stat().st_size for name in files}
    assert sum(sizes.values()) < MOST_BYTES
    large = [name for name, size in sizes.items() if size > LARGE]
    assert all(name.startswith("small_world/models/") for name in large)


def test_the_code_has_nothing_that_the_registry_will_forbid(files):
    """`comfy node publish` warns of eval and exec, which the registry means to refuse."""
    calls = [
        f"{name}:{node.lineno}"
        for name in files
        if name.endswith(".py")
        for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("eval", "exec")
    ]
    assert calls == []
