"""`run.py check-release` says that a correct pack is ready, and of any other what to correct."""

import random
import shutil
import sys
from pathlib import Path

import pytest
from small_pack import commit, edit, git, small_pack

from launcher import commands
from launcher.errors import LaunchError
from launcher.paths import ROOT
from launcher.publish import release
from launcher.publish.comfy_cli import comfy_program
from launcher.publish.registry import RULES, read_pack
from launcher.run.environment import ensure_environment


@pytest.fixture
def pack(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(shutil, "which", lambda _name: None)  # comfy-cli of whoever tests
    return small_pack(tmp_path)


def test_a_pack_in_order_is_ready(pack, capsys):
    assert release.check_release(pack) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("small-pack 0.2.0, to be published by someone\n")
    assert "FIX" not in printed and "\nReady: " in printed
    assert printed.count("  ok ") == len(RULES) + len(release.RELEASE_RULES)


BROKEN = [
    ("pyproject.toml", 'Icon = "https', 'Image = "https', "/a/b/main/docs/icon.svg"),
    ("pyproject.toml", 'PublisherId = "someone"', "", "the name behind the @"),
    ("CHANGELOG.md", "[Unreleased]", "[Unreleased]\n\n### Fixed\n- This.", "under [Unreleased]"),
    ("LICENSE", "MIT License", "Mine", "no file with the MIT License"),
    (".comfyignore", "/tests/", "/tests/\n/web/", "web/page.js is not in the package"),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), BROKEN)
def test_what_is_not_in_order_is_reported_with_what_to_do(pack, capsys, file, old, new, message):
    edit(pack / file, old, new)
    commit(pack)
    assert release.check_release(pack) == 1
    output = capsys.readouterr().out
    assert message in output and output.count("  FIX ") == 1
    assert "NOT READY: 1 of the above" in output


def test_a_pack_before_its_first_release_is_told_the_fields_and_the_heading(pack, capsys):
    edit(pack / "CHANGELOG.md", "## [0.2.0] - 2026-01-02\n", "")
    edit(pack / "CHANGELOG.md", "## [0.1.0] - 2026-01-01\n", "")
    for line in (pack / "pyproject.toml").read_text("utf-8").splitlines():
        if line.startswith(("Repository", "Icon", "Banner")):
            edit(pack / "pyproject.toml", f"{line}\n", "")
    commit(pack)
    assert release.check_release(pack) == 1
    output = capsys.readouterr().out
    assert "write ## [0.2.0] - YYYY-MM-DD" in output and "under [Unreleased]" in output
    assert "put https://github.com/OWNER/NAME." in output
    for picture in ("icon", "banner"):
        address = f"https://raw.githubusercontent.com/OWNER/NAME/main/docs/{picture}.svg"
        assert f"put {address}." in output


def test_what_is_not_committed_is_named(pack, capsys):
    edit(pack / "README.md", "pack", "good pack")
    for number in range(9):
        (pack / f"new_{number}.txt").touch()
    assert release.check_release(pack) == 1
    assert "README.md, new_0.txt, new_1.txt, new_2.txt, new_3.txt and 5 more: commit them." in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("tag", "status"), [("v0.2.0", 1), ("v0.10.0", 1), ("v0.1.9", 0), ("vain", 0)]
)
def test_a_version_that_is_tagged_or_below_a_tag_is_refused(pack, capsys, tag, status):
    git(pack, "tag", tag)
    assert release.check_release(pack) == status
    assert (f"{tag} is tagged already" in capsys.readouterr().out) == bool(status)


def test_the_contents_are_counted_and_the_largest_files_come_first(pack, capsys):
    weights = pack / "small_world" / "models" / "loras" / "one.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(random.Random(0).randbytes(2_000_000))
    commit(pack)
    assert release.check_release(pack) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("In the package:")
    assert lines[at + 1].startswith("  15 files, 2.00 MB, as an archive 2.00 MB")
    assert lines[at + 2] == "      2.00 MB  small_world/models/loras/one.safetensors"


@pytest.mark.parametrize(
    ("says", "status"),
    [("print('all passed')", 0), ("print('Warning: a classifier')", 1), ("sys.exit('no')", 1)],
)
def test_comfy_clis_own_check_is_asked_where_it_is_there(pack, monkeypatch, capsys, says, status):
    script = pack.parent / f"{pack.name}-comfy.py"
    script.write_text(f"import sys\nassert sys.argv[-2:] == ['node', 'validate']\n{says}\n")
    monkeypatch.setattr(shutil, "which", lambda _name: sys.executable)
    monkeypatch.setattr(release, "COMFY", (str(script), *release.COMFY))
    assert release.check_release(pack) == status
    assert "`comfy node validate` has no complaint" in capsys.readouterr().out


@pytest.fixture(scope="module")
def real_comfy() -> str:
    """The path of comfy-cli itself. Only its own installation may fail: ComfyUI's environment, on
    which it is laid, must be there."""
    ensure_environment()
    try:
        return str(comfy_program())
    except LaunchError as error:
        pytest.skip(f"comfy-cli cannot be installed here: {error}")


@pytest.fixture
def asked(real_comfy, monkeypatch, tmp_path) -> None:
    """`comfy` on the path, which keeps its own settings in the user's home folder: a new one."""
    monkeypatch.setattr(shutil, "which", lambda _name: real_comfy)
    for home in ("HOME", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.setenv(home, str(tmp_path))


def test_comfy_cli_itself_has_no_complaint_about_this_clone(asked):
    assert release.comfys_own_check(read_pack(ROOT)) == []


@pytest.mark.parametrize("bad", ["exec('1')\n", "x = 1; y = 2\n"])
def test_comfy_cli_itself_complains_of_what_it_looks_for(pack, asked, bad):
    assert release.comfys_own_check(read_pack(pack)) == []
    (pack / "added.py").write_text(bad)
    assert release.comfys_own_check(read_pack(pack)) != []


def test_comfy_cli_itself_refuses_a_pack_without_a_version(pack, asked):
    wrong = read_pack(pack)
    edit(pack / "pyproject.toml", 'version = "0.2.0"\n', "")
    assert release.comfys_own_check(wrong) != []


def test_the_command_gives_the_status(pack, monkeypatch, capsys):
    monkeypatch.setattr(commands, "check_release", lambda: release.check_release(pack))
    assert commands.main(["check-release"]) == 0
    edit(pack / "README.md", "pack", "good pack")
    assert commands.main(["check-release"]) == 1
    assert "NOT READY" in capsys.readouterr().out
