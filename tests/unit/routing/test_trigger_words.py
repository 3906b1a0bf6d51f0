"""The words that a LoRA was trained with, from what trainers write into their files."""

import json

import pytest

from craft_core.routing.markers import parse
from craft_core.routing.trigger_words import common_phrases, stated, trigger_words


def kohya(pictures=None, **folders):
    dirs = {name: {"n_repeats": 10, "img_count": pictures} for name in folders}
    counted = {} if pictures is None else {"ss_dataset_dirs": json.dumps(dirs)}
    return {"ss_tag_frequency": json.dumps(folders), **counted}


CASES = {
    "nothing": ({}, ()),
    "a phrase that is stated": ({"modelspec.trigger_phrase": "sks dog, sks"}, ("sks dog", "sks")),
    "tags of every caption": (
        kohya(20, dogs={"sks dog": 20, "grass": 7, " sitting": 3}), ("sks dog",),
    ),
    "a tag in more than each picture": (kohya(20, dogs={"sks": 21}), ("sks",)),
    "a trigger that stands alone": (kohya(None, **{"1_sks": {"sks": 1}}), ("sks",)),
    "no number of pictures": (kohya(None, dogs={"1girl": 9, "solo": 8}), ()),
    "folders with a word each": (kohya(4, a={"sks": 4, "x": 1}, b={"zwx": 5}), ("sks", "zwx")),
    "the same word twice": (kohya(4, a={"sks": 4}, b={"sks": 4}), ("sks",)),
    "a whole caption": (kohya(1, a={"a " * 60: 1}), ()),
    "the phrase before the tags": (
        {"modelspec.trigger_phrase": "zwx", **kohya(1, a={"b": 1})}, ("zwx",),
    ),
    "an empty phrase": ({"modelspec.trigger_phrase": " ", **kohya(1, a={"b": 1})}, ("b",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_words_are_those_that_every_picture_was_trained_with(case):
    metadata, words = CASES[case]
    assert trigger_words(metadata) == words


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    "text",
    [DEEP, '{"a":' * 200_000, "", "{", "[]", "null", '{"a": 1}', '{"a": {"b": true, "c": -1}}'],
)
def test_metadata_that_cannot_be_read_names_no_words(text):
    assert trigger_words({"ss_tag_frequency": text, "ss_dataset_dirs": text}) == ()


COMMON = {
    "one caption": (["a photo of <c>sks  dog</c> in <s>zwx style</s>"], ("sks dog",)),
    "what all have": (["<c>sks dog</c>, <c>red hat</c>", "<c>blue hat</c> and <c>sks dog</c>"],
                      ("sks dog",)),
    "nothing in common": (["<c>sks dog</c>", "a dog"], ()),
    "no markers": (["a sks dog"], ()),
    "no captions": ([], ()),
}  # fmt: skip


@pytest.mark.parametrize(("captions", "words"), COMMON.values(), ids=COMMON.keys())
def test_the_phrases_that_all_captions_mark(captions, words):
    assert common_phrases([parse(one) for one in captions], "content") == words


@pytest.mark.parametrize(
    ("words", "read"),
    [(("sks dog", "sks dog", "zwx"), ("sks dog", "zwx")), ((), ()), (("a, b", "x" * 200), ())],
)
def test_what_is_stated_is_read_back(words, read):
    assert trigger_words(stated(words)) == read
    assert bool(stated(words)) == bool(read)
