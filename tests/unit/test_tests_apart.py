"""Files of the host tier share one process with others, so each saves into folders of its own."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

HOST_TESTS = Path(__file__).resolve().parents[1] / "host"
SAVES = re.compile(r'(?:save_name\W+|target\(f?"|learn\(world, f?"|How\(f?")([a-z_0-9]+)/')


def test_no_two_files_save_into_one_folder():
    """The host numbers the files of a name: with another test's there, ours is not the first."""
    users = defaultdict(set)
    for path in HOST_TESTS.rglob("test_*.py"):
        for folder in SAVES.findall(path.read_text("utf-8")):
            users[folder].add(path.relative_to(HOST_TESTS))
    assert users and {k: v for k, v in users.items() if len(v) > 1} == {}
