"""Files of the host tier share one process with others, so each saves into folders of its own."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

HOST_TESTS = Path(__file__).resolve().parents[1] / "host"
PARTS = HOST_TESTS.parent / "unit" / "parts"
IMPORTS = re.compile(r"^\s*(?:from|import) ([a-z_0-9.]+)", re.M)
ROOMS = {
    "craft_core",
    "client",
    "cli",
    "comfy_adapter",
}  # of the pack, which the host names otherwise
SAVES = re.compile(r'(?:save_name\W+|target\(f?"|learn\(world, f?"|How\(f?")([a-z_0-9]+)/')


def test_no_two_files_save_into_one_folder():
    """The host numbers the files of a name: with another test's there, ours is not the first."""
    users = defaultdict(set)
    for path in HOST_TESTS.rglob("test_*.py"):
        for folder in SAVES.findall(path.read_text("utf-8")):
            users[folder].add(path.relative_to(HOST_TESTS))
    assert users and {k: v for k, v in users.items() if len(v) > 1} == {}


def test_the_host_tier_has_one_copy_of_the_pack():
    """By its name in the host, craft_lora_pack: a second copy has other classes and registries."""
    parts = {".".join(path.relative_to(PARTS).with_suffix("").parts): path
             for path in PARTS.rglob("*.py")}  # fmt: skip
    open_, wrong, seen = [*HOST_TESTS.rglob("*.py")], set(), set()
    while open_:
        path = open_.pop()
        seen.add(path)
        for name in IMPORTS.findall(path.read_text("utf-8")):
            if name.split(".")[0] in ROOMS:
                wrong.add((path.name, name))
            if name in parts and parts[name] not in seen:
                open_.append(parts[name])
    assert seen & set(parts.values())
    assert wrong == set()
