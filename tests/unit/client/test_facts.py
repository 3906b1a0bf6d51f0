"""Which model files a prompt names, wherever it names them."""

from __future__ import annotations

import json

import pytest
from craft_lora_pack.client.client import Client
from craft_lora_pack.client.facts import LIST, NO_FILES, ROWS, hash_told, model_uses
from craft_lora_pack.craft_core.routing.lora_rows import SAME, read_rows
from fake_comfyui import FakeComfyUI

DOG, INK, OTHER = "dog.safetensors", "ink.safetensors", "other.safetensors"


def files(value, kind=LIST, name=ROWS):
    return {file for _, _, file in model_uses({"1": {"class_type": kind, "inputs": {name: value}}})}


def row(lora, **more):
    return {"lora": lora, "role": "content", **more}


ROW_FILES = {
    "one": ([row(DOG)], {DOG}),
    "two": ([row(DOG), row(INK, on=True, strength=0.0)], {DOG, INK}),
    "off": ([row(DOG, on=False, second_lora=OTHER), row(INK)], {INK}),
    "second": ([row(DOG, second_lora=OTHER)], {DOG, OTHER}),
    **{name: ([row(DOG, second_lora=name)], {DOG}) for name in NO_FILES},
    "none": ([], set()),
}


@pytest.mark.parametrize("case", ROW_FILES)
def test_the_files_of_a_lora_list_are_those_of_the_rows_that_are_on(case):
    rows, named = ROW_FILES[case]
    assert files(json.dumps(rows)) == named
    assert {one.lora for one in read_rows(json.dumps(rows)) if one.on} <= named
    assert SAME in NO_FILES


NO_ROWS = ["", "{", "{}", "7", "[7, null, [], {}]", "[" * 9999, '[{"lora": 7}]', ["1", 0], None]


@pytest.mark.parametrize("text", NO_ROWS)
def test_what_is_no_list_of_rows_names_no_file(text):
    assert files(text) == set()


def test_other_inputs_name_a_file_by_its_ending():
    assert files(DOG, "Loader", "lora_name") == {DOG} == files(DOG, LIST, "other")
    assert files("a dog", "Loader", "prompt") == set() == files(json.dumps([row(DOG)]), "Other")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"version": "1", "sha256": "a" * 64}, "a" * 64),
        ({"version": "1", "sha256": None}, None),
        ({"error": "it cannot be read"}, None),
        ({}, None),
        ([7], None),
    ],
)
def test_a_files_hash_is_what_the_servers_pack_says(answer, told):
    with FakeComfyUI() as server:
        server.tell_of = lambda name: answer if name == DOG else {}
        assert hash_told(Client(server.url), DOG) == told
