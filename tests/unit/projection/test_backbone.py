"""What a file says of the backbone that it was trained on, and what is told of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from craft_core.projection import (
    Projected,
    backbone_lines,
    backbone_metadata,
    stated_backbone,
    trained_backbone,
)

ONE = Projected("one.safetensors", "0123456789ab", "both", 1.0)
OTHER = Projected("other.safetensors", "ba9876543210", "style", 0.5)
TABLE = {"name": "one", "digest": "0", "which": "both", "strength": 1}
PLAIN = {"training": json.dumps({"base_model": "0" * 64})}
PATCHED = {"training": json.dumps({"base_model": f"{'0' * 64} with patches 0123456789abcdef"})}


@pytest.mark.parametrize("found", [{ONE}, {ONE, OTHER}])
def test_what_is_written_is_read(found):
    metadata = backbone_metadata(found)
    assert stated_backbone(metadata) == found
    assert stated_backbone({**PATCHED, **metadata}) == found
    assert all(one.name in trained_backbone(metadata) for one in found)


def test_nothing_is_written_of_a_model_without_a_basis():
    assert backbone_metadata([]) == {}
    assert stated_backbone(PLAIN) == frozenset() and trained_backbone(PLAIN) == ""


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"ss_output_name": "of another trainer"},
        PATCHED,  # of a time when no basis was named
        {"training": "no JSON"},
        {"training": "[1]"},
        {"training": "{}"},
        {"craft_basis": "no JSON"},
        {"craft_basis": "[]"},
        {"craft_basis": "[1]"},
        {"craft_basis": "[" * 10000},
        {"craft_basis": json.dumps([{"name": 1, "digest": "", "which": "both", "strength": 1}])},
        {"craft_basis": json.dumps([{"name": "", "digest": "", "which": "both"}])},
        {"craft_basis": json.dumps([{**TABLE, "strength": 10**400}])},
        {"craft_basis": json.dumps([{**TABLE, "strength": float("nan")}])},
        {"craft_basis": json.dumps([{**TABLE, "which": "x" * 100000}])},
        {"craft_basis": json.dumps([{**TABLE, "which": ["both"]}])},
        {"craft_basis": json.dumps([{**TABLE, "name": f"{n}"} for n in range(100000)])},
    ],
)
def test_a_file_that_does_not_say_is_told_nothing(metadata):
    assert stated_backbone(metadata) == frozenset() and trained_backbone(metadata) == ""
    assert backbone_lines("x", metadata, [ONE]) == backbone_lines("x", metadata, []) == ()


@pytest.mark.parametrize(
    ("metadata", "here", "told"),
    [
        (backbone_metadata([ONE]), [], "this MODEL has no basis"),
        (backbone_metadata([ONE]), [OTHER], "this MODEL is that of other.safetensors"),
        (backbone_metadata([ONE]), [replace(ONE, strength=0.5)], "both at 0.5"),
        (backbone_metadata([ONE]), [replace(ONE, which="content")], "content at 1"),
        (backbone_metadata([ONE]), [ONE, OTHER], "this MODEL is that of"),
    ],
)
def test_another_backbone_is_one_note(metadata, here, told):
    (note,) = backbone_lines("x", metadata, here)
    assert told in note and note.startswith("x: it was trained on")


def test_the_same_backbone_is_no_note_whatever_its_file_is_called():
    assert backbone_lines("x", PLAIN, []) == backbone_lines("x", PLAIN, [ONE]) == ()
    assert backbone_lines("x", backbone_metadata([ONE]), [replace(ONE, name="renamed")]) == ()


def test_a_name_that_a_file_states_stays_a_short_line():
    long = replace(ONE, name="a\nb " * 1000, digest="0" * 1000)
    assert "\n" not in trained_backbone(backbone_metadata([long]))
    assert len(trained_backbone(backbone_metadata([long]))) < 150
