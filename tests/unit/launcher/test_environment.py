"""The node manager's environment lies on top of the host's and changes nothing in it."""

import subprocess
import sys
from pathlib import Path

from launcher import paths
from launcher.run import environment


def test_a_layer_sees_what_is_below_and_keeps_its_own_apart(tmp_path):
    python = paths.venv_python(tmp_path / "manager")
    assert environment.make_layer(Path(sys.executable), tmp_path / "manager") == python
    script = "import sysconfig, pip, pytest; print(sysconfig.get_path('purelib'), pytest.__file__)"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    own, seen = done.stdout.split()
    assert Path(own).is_relative_to(tmp_path) and not Path(seen).is_relative_to(tmp_path)
    assert [entry.name for entry in Path(own).iterdir()] == ["host.pth"]


def test_a_new_host_voids_the_managers_stamp_and_other_test_tools_do_not(monkeypatch):
    before = environment.recipe_digests()["manager"]
    monkeypatch.setattr(environment, "TEST_TOOLS", ("pytest==0",))
    assert environment.recipe_digests()["manager"] == before
    other = environment.PinnedHost(sha256="0")
    assert environment.recipe_digests(other)["manager"] != before


def test_other_peers_libraries_void_their_own_stamp_alone(monkeypatch):
    before = environment.recipe_digests()
    monkeypatch.setattr(environment, "PEER_LIBRARIES", ("peft==0",))
    after = environment.recipe_digests()
    assert {name for name in after if after[name] != before[name]} == {"peers"}
