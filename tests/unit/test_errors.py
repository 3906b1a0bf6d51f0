"""Messages: names are listed in one way."""

import re
from pathlib import Path

import pytest

from craft_core.errors import listed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (0, 2, "none"),
        (1, 2, "n0"),
        (2, 2, "n0, n1"),
        (3, 2, "n0, n1 and 1 more"),
        (12, 2, "n0, n1 and 10 more"),
    ],
)
def test_the_first_names_are_listed_and_the_others_counted(count, most, expected):
    names = [f"n{i}" for i in range(count)]
    for given in (names, tuple(names), dict.fromkeys(names), iter(names)):
        assert listed(given, most) == expected


def test_names_are_cut_short_in_one_place():
    """Another way to say how many more there are would say it differently."""
    own = re.compile(r"""\} more|\+ " more|", \.\.\.\"""")
    rooms = [folder for folder in sorted(ROOT.iterdir()) if (folder / "__init__.py").is_file()]
    files = [
        file for folder in [*rooms, ROOT / "benchmarks"] if folder.name != "tests"
        for file in sorted(folder.rglob("*.py"))
    ]  # fmt: skip
    assert len(files) > 100
    found = [str(file.relative_to(ROOT)) for file in files if own.search(file.read_text("utf-8"))]
    assert found == ["craft_core/errors.py"]
