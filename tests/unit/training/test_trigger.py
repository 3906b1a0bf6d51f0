"""A trigger word gets into every caption, marked by its role."""

from __future__ import annotations

import pytest

from craft_core.errors import CraftError
from craft_core.routing.markers import parse
from craft_core.training.trigger import EFFORTS, captions_with_trigger
from craft_core.types import ROLES


@pytest.mark.parametrize(
    ("caption", "made"),
    [
        ("", "a photo of <c>sks dog</c>"),
        ("[trigger] on a beach", "<c>sks dog</c> on a beach"),
        ("a red ball, {trigger}", "a red ball, <c>sks dog</c>"),
        ("on a beach", "<c>sks dog</c>, on a beach"),
        ("my <c>sks terrier</c> runs", "my <c>sks terrier</c> runs"),
        ("in <s>ink style</s>", "<c>sks dog</c>, in <s>ink style</s>"),
        ("a photo of <c>[trigger]</c>", "a photo of <c>sks dog</c>"),
        ("<c>a sleepy [trigger]</c>, [trigger]", "<c>a sleepy sks dog</c>, <c>sks dog</c>"),
        ("[trigger] <c> runs", "sks dog <c> runs"),
    ],
)
def test_the_phrase_goes_to_its_place_or_in_front(caption, made):
    assert captions_with_trigger([caption], " sks ", "dog", "content") == [made]


@pytest.mark.parametrize("trigger", ["<c>sks</c>", "<s>sks</s>", " <C>sks</C> "])
@pytest.mark.parametrize("role", ROLES)
def test_a_trigger_that_is_marked_already_is_marked_once(trigger, role):
    plain = captions_with_trigger(["", "[trigger] runs"], "sks", "dog", role)
    assert captions_with_trigger(["", "[trigger] runs"], trigger, "dog", role) == plain


def test_a_style_without_a_class_word_is_a_style():
    assert captions_with_trigger([""], "zwx", "", "style") == ["a picture in <s>zwx style</s>"]
    assert captions_with_trigger([""], "zwx", "ink", "style") == ["a picture in <s>zwx ink</s>"]
    assert captions_with_trigger([""], "sks", "", "content") == ["a photo of <c>sks</c>"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "caption",
    [
        "",
        "x",
        "[trigger]",
        "<c>a</c> <s>b</s>",
        "[TRIGGER] [trigger]",
        "<c>a</c>, [trigger]",
        "<s>b</s>, {trigger}",
    ],
)
def test_every_caption_marks_a_phrase_of_the_role(role, caption):
    (made,) = captions_with_trigger([caption], "sks", "cat", role)
    assert getattr(parse(made), role) and "trigger" not in made.lower()


def test_captions_stay_as_many():
    assert len(captions_with_trigger(["a", "", "b"], "sks", "", "content")) == 3


def test_without_a_trigger_there_is_none():
    with pytest.raises(CraftError, match="trigger of the style is empty"):
        captions_with_trigger(["a"], "  ", "dog", "style")


def test_what_is_usual_is_an_effort():
    assert list(EFFORTS) == ["quick", "normal", "long"] and EFFORTS["normal"] == 1
