"""What the Comfy registry asks of a pack, and what a user gets who installs ours from it.

The rules are in `launcher/publish/registry.py`; this clone must keep them all, and each of them
must find a small pack that breaks it.
"""

import subprocess
from pathlib import Path

import pytest
from small_pack import edit, remove, small_pack

from launcher.errors import LaunchError
from launcher.paths import ROOT
from launcher.publish import registry


@pytest.fixture(scope="module")
def clone() -> registry.Pack:
    return registry.read_pack(ROOT)


@pytest.mark.parametrize("rule", registry.RULES, ids=lambda rule: rule.__name__)
def test_this_clone_keeps_every_rule(clone, rule):
    assert rule(clone) == []


def test_the_package_is_what_git_knows_less_what_is_left_out(clone):
    assert {"__init__.py", "nodes/__init__.py", "web/js/craft_lora.js"} <= set(clone.files)
    left_out = ("tests/", "benchmarks/", ".ci/", "small_world/train/", ".git/")
    assert not [name for name in clone.files if name.startswith(left_out)]
    assert not [name for name in clone.files if "__pycache__" in name]


@pytest.fixture
def pack(tmp_path) -> Path:
    return small_pack(tmp_path)


@pytest.mark.parametrize("rule", registry.RULES, ids=lambda rule: rule.__name__)
def test_a_small_pack_that_is_in_order_keeps_every_rule(pack, rule):
    assert rule(registry.read_pack(pack)) == []


UNRELEASED = "## [Unreleased]\n"
BROKEN = [
    ("name", "pyproject.toml", "small-pack", "1-Pack"),
    ("name", "pyproject.toml", "small-pack", "comfyui-pack"),
    ("version", "pyproject.toml", 'version = "0.2.0"', 'version = "0.02.0"'),
    ("version", "pyproject.toml", 'version = "0.2.0"', 'version = "0.3.0"'),
    ("changelog", "CHANGELOG.md", "[0.2.0] - 2026-01-02", "[0.2.0]"),
    ("changelog", "CHANGELOG.md", "[0.1.0]", "[v0.1]"),
    ("changelog", "CHANGELOG.md", "[0.1.0]", "[0.10.0]"),
    ("changelog", "CHANGELOG.md", "### Added", "### New"),
    ("changelog", "CHANGELOG.md", "## [0.1.0]", UNRELEASED + "## [0.1.0]"),
    ("facts", "pyproject.toml", "Draws.", ""),
    ("facts", "pyproject.toml", 'PublisherId = "someone"', 'PublisherId = ""'),
    ("facts", "pyproject.toml", ">=3.10", "3.10"),
    ("facts", "pyproject.toml", '"Small"', '""'),
    ("facts", "pyproject.toml", "README.md", "READ.md"),
    ("facts", "LICENSE", "MIT License", "All rights reserved"),
    ("addresses", "pyproject.toml", "https://github.com/a/b", "http://github.com/a/b"),
    ("addresses", "pyproject.toml", "docs/icon.svg", "docs/other.svg"),
    ("addresses", "pyproject.toml", "docs/banner.svg", "docs/icon.svg"),
    ("addresses", "pyproject.toml", 'Repository = "https://github.com/a/b"', ""),
    ("compatibility", "pyproject.toml", "requires-comfyui", "requires-host"),
    ("compatibility", "pyproject.toml", "OS Independent", "MacOS"),
    ("compatibility", "pyproject.toml", "GPU :: NVIDIA CUDA", "GPU"),
    ("dependencies", "pyproject.toml", "dependencies = []", 'dependencies = ["torch"]'),
    ("dependencies", "requirements.txt", "# none", "torch"),
    ("dependencies", "install.py", "", "pass"),
    ("listing_pictures", "docs/icon.svg", "400", "500"),
    ("listing_pictures", "docs/banner.svg", "540", "400"),
    ("listing_pictures", "docs/banner.svg", "</svg>", "<script/></svg>"),
    ("ignore_file", ".comfyignore", "/tests/", "/tests/\n/gone/"),
    ("ignore_file", ".comfyignore", "/tests/", "tests/"),
    ("ignore_file", ".comfyignore", "/tests/", "/tests/\n/web/*.js"),
    ("served", ".comfyignore", "/tests/", "/tests/\n/web/"),
    ("complete", "nodes/menu.py", "import json", "from ..tests import test_it"),
    ("complete", "run.py", "import sys", "import launcher.gone"),
    ("complete", "run.py", "import sys", "from craft_lora_pack.client.gone import it"),
    ("size", "nodes/data.txt", "", "x" * (registry.LARGE + 1)),
    ("size", "small_world/models/big.bin", "", "x" * registry.MOST_BYTES),
    ("no_forbidden_calls", "nodes/menu.py", "import json", "value = eval('1')"),
    ("starts_nothing", "nodes/menu.py", "import json", "import subprocess"),
    ("starts_nothing", "nodes/menu.py", "import json", "from subprocess import run"),
]


@pytest.mark.parametrize(("rule", "file", "old", "new"), BROKEN)
def test_a_broken_rule_complains_and_no_other_does(pack, rule, file, old, new):
    edit(pack / file, old, new)
    broken = registry.read_pack(pack)
    complaints = {each.__name__: each(broken) for each in registry.RULES}
    assert {name for name, found in complaints.items() if found} == {rule}
    assert all(text.endswith(".") and text.count("\n") == 0 for text in complaints[rule])


def test_every_rule_is_broken_by_one_of_the_cases():
    assert {rule for rule, *_ in BROKEN} == {rule.__name__ for rule in registry.RULES}


def test_what_is_served_and_git_ignores_is_told(pack):
    edit(pack / ".gitignore", "__pycache__/", "__pycache__/\nweb/made/")
    edit(pack / "web" / "made" / "page.js", "", "// made")
    (found,) = registry.served(registry.read_pack(pack))
    assert found.startswith("web/made/page.js is not in the package")


def test_a_missing_icon_is_told_and_not_an_exception(pack):
    remove(pack / "docs" / "icon.svg")
    found = registry.read_pack(pack)
    assert registry.listing_pictures(found) == ["docs/icon.svg is missing: put it back."]


def test_an_ignored_folder_is_left_out_at_the_root_only(pack):
    (pack / "web" / "tests").mkdir()
    (pack / "web" / "tests" / "page.js").write_text("")
    files = registry.read_pack(pack).files
    assert "web/tests/page.js" in files and not [one for one in files if one.startswith("tests/")]


def test_versions_compare_as_numbers():
    assert registry.version_of("0.10.0") > registry.version_of("0.9.12")
    assert [registry.version_of(text) for text in ("1.0", "v1.0.0", "1.0.0-rc", "01.0.0")] == (
        [None] * 4
    )


def test_a_folder_that_git_does_not_know_is_one_sentence(pack):
    remove(pack / ".git")
    (pack / ".git").write_text("gitdir: nowhere")
    with pytest.raises(LaunchError, match="git ls-files failed"):
        registry.read_pack(pack)


def test_no_git_is_one_sentence(pack, monkeypatch):
    def lacking(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", lacking)
    with pytest.raises(LaunchError, match="needs git"):
        registry.read_pack(pack)
