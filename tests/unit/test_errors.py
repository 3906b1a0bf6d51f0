"""Messages: names are listed in one way; whatever they quote, they are plain and of some size."""

import re
from pathlib import Path

import pytest

from craft_core.errors import BREAKS, MOST, CraftError, listed, plain, told

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


WILD = "a\x1b[31m\x00\r\x7f\x9b\u202e\u2066\ud800b\n\tc"


def test_a_plain_text_acts_on_no_terminal():
    assert plain("Grüße, 猫 🐈\n\tend") == "Grüße, 猫 🐈\n\tend"
    shown = plain(WILD)
    assert shown.startswith("a\ufffd[31m") and shown.endswith("b\n\tc")
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 5000])
def test_a_plain_text_has_its_size(length):
    shown = plain("x" * length, 10)
    assert len(shown) == min(length, 10) and shown.endswith("...") == (length > 10)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_message_has_a_size_and_its_other_parts_whatever_one_quotes(part):
    parts = ["Given", "Possible", "Act"]
    parts[part] = WILD * 10_000
    error = CraftError(*parts)
    assert len(str(error)) <= MOST and "\x1b" not in str(error)
    assert all(f"{one}." in str(error) for one in ("Given", "Possible", "Act") if one in parts)


@pytest.mark.parametrize("kind", BREAKS)
def test_what_breaks_is_told_in_three_parts(kind):
    given = ("utf-8", b"a", 0, 1, "why") if kind is UnicodeError else ("why",)
    error = told(UnicodeDecodeError(*given) if kind is UnicodeError else kind(*given))
    assert error.given and error.possible and error.action


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
