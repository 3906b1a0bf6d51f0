"""A list of LoRAs as people and the page write it: all of it is read, or the row is named."""

import json

import pytest

from craft_core.errors import CraftError
from craft_core.routing.lora_rows import SAME, LoraRow, read_rows

DOG = {"lora": "dog.safetensors", "role": "content"}
FULL = {
    "lora": "färg/ink.safetensors", "role": "style", "strength": -0.5, "on": False,
    "layers": "up_blocks.0\nmid_block", "second_lora": "none",
}  # fmt: skip


def test_a_row_is_read_as_it_is_written_and_what_it_lacks_is_neutral():
    assert read_rows(json.dumps([FULL, DOG])) == (
        LoraRow(*FULL.values()),
        LoraRow("dog.safetensors", "content", 1.0, True, "", SAME),
    )


@pytest.mark.parametrize("text", ["", " \n", "[]", "[ ]"])
def test_an_empty_list_has_no_rows(text):
    assert read_rows(text) == ()


def test_rows_keep_their_order_and_may_be_the_same_file():
    rows = [dict(DOG, strength=number / 10) for number in range(30)]
    assert [row.strength for row in read_rows(json.dumps(rows))] == [n / 10 for n in range(30)]


@pytest.mark.parametrize("strength", [-10, -10.0, 0, 10, 10.0])
def test_a_strength_may_be_any_that_the_branch_node_has(strength):
    assert read_rows(json.dumps([dict(DOG, strength=strength)]))[0].strength == strength


WRONG = {
    "no JSON": ("[{'lora': 1}]", "is no JSON", "list of rows"),
    "a comma too many": ('[{"lora": "a", "role": "style"},]', "is no JSON", "list of rows"),
    "nested too deeply": ("[" * 100_000, "is no JSON", "list of rows"),
    "a row alone": (json.dumps(DOG), "The list of LoRAs is {", "list of rows"),
    "a name alone": ('["dog.safetensors"]', "Row 1 .* is \"dog", "A row has lora and role"),
    "no file": ('[{"role": "style"}]', "Row 1 .* no lora", "A row has lora and role"),
    "an empty file": ('[{"lora": "", "role": "style"}]', "no lora", "A row has lora and role"),
    "no role": ('[{"lora": "a"}]', "Row 1 .* no role", "A row has lora and role"),
    "a misspelt name": (
        json.dumps([DOG, dict(DOG, strenght=1)]), 'Row 2 .* has "strenght"', "may have strength",
    ),
    "an unknown role": (json.dumps([dict(DOG, role="Style")]), 'role of row 1 is "Style"',
                        "content or style"),
    "a file that is no name": (json.dumps([dict(DOG, lora=7)]), "lora of row 1 is 7", "name"),
    "layers as a list": (json.dumps([dict(DOG, layers=["a"])]), "layers of row 1", "one a line"),
    "on as a number": (json.dumps([dict(DOG, on=1)]), "on of row 1 is 1", "true or false"),
    "layers of no model": (
        json.dumps([DOG, dict(DOG, layers="up blocks")]), "Own layers of row 2", "",
    ),
    "too many": (json.dumps([DOG] * 1001), "has 1001 rows", "1000"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_told_in_three_parts(case):
    text, given, possible = WRONG[case]
    with pytest.raises(CraftError, match=given) as raised:
        read_rows(text)
    assert possible in raised.value.possible and raised.value.action


@pytest.mark.parametrize("value", ["true", '"1"', "NaN", "-Infinity", "10.01", "1e999", "null"])
def test_a_strength_is_a_number_that_the_branch_node_may_have(value):
    with pytest.raises(CraftError, match="strength of row 1 is"):
        read_rows(f'[{{"lora": "a", "role": "style", "strength": {value}}}]')
