"""Markers: phrases, the clean prompt, and the mistakes."""

import itertools
import random

import pytest

from craft_core.errors import CraftError
from craft_core.routing import gammas, parse
from craft_core.types import Routing


def texts(phrases):
    return [phrase.text for phrase in phrases]


@pytest.mark.parametrize(
    "prompt, clean, content, style",
    [
        (
            "A dog <c> in watercolor style <s>",
            "A dog in watercolor style",
            ["A dog"],
            ["in watercolor style"],
        ),
        (
            "A photo of a person <c>smiling in a watercolor style <s>",
            "A photo of a person smiling in a watercolor style",
            ["A photo of a person"],
            ["smiling in a watercolor style"],
        ),
    ],
)
def test_the_papers_prompts_read_as_the_paper_says(prompt, clean, content, style):
    marked = parse(prompt)
    assert marked.clean == clean
    assert (texts(marked.content), texts(marked.style)) == (content, style)


def test_a_pair_marks_what_is_between():
    marked = parse("photo of <c>a red car</c> in <s>Van Gogh style</s>, 8k")
    assert texts(marked.content) == ["a red car"] and texts(marked.style) == ["Van Gogh style"]
    assert marked.clean == "photo of a red car in Van Gogh style, 8k"


def test_a_role_may_have_several_phrases_and_either_order():
    marked = parse("<s>ink</s>: <c>a cat</c> and <c>a dog</c> at night <c>")
    assert texts(marked.content) == ["a cat", "a dog", "at night"]
    assert texts(marked.style) == ["ink"] and marked.clean == "ink: a cat and a dog at night"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "  two  spaces , and\n\n\tlines \r\n",
        "(x:1.2) embedding:foo <lora:a:1> BREAK",
        "<cat> <s1> <c/> < c > </ c> <content> <c",
    ],
)
def test_a_prompt_without_markers_stays_bitwise_the_same(prompt):
    marked = parse(prompt)
    assert marked.clean == prompt
    assert not marked.has_content and not marked.has_style and marked.markers == ()


@pytest.mark.parametrize(
    "prompt, clean",
    [
        ("<c>dog</c>, ink <s>.", "dog, ink."),
        ("(A dog <c>:1.2)  and ( ink <s> )", "(A dog:1.2)  and ( ink)"),
        (
            "embedding:foo <c> BREAK\n  ink  wash <s>\n\nBREAK",
            "embedding:foo BREAK\n  ink  wash\n\nBREAK",
        ),
        ("a\n<c>dog</c>\r\n <s>ink</s>\n", "a\ndog\r\nink\n"),
        ("  <c> dog </c>  <s> ink </s>  ", "dog ink"),
        ("<c>dog</c>s, <c>cat</c>fish", "dogs, catfish"),
        ("a dog<c>in ink<s>", "a dog in ink"),
        ("a dog <c>, ,  ink <s>", "a dog, ,  ink"),
        ("(<c> dog </c>:1.2), {<s> ink</s>}", "(dog:1.2), {ink}"),
        ("in <s>:D style</s>", "in :D style"),
        ("[<c>dog</c>:<s>ink</s>:0.5]", "[dog:ink:0.5]"),
    ],
)
def test_removing_markers_tidies_the_whitespace_beside_them_only(prompt, clean):
    assert parse(prompt).clean == clean


def test_a_lone_marker_never_joins_two_words():
    for left, right in itertools.product(("dog", "é", "猫", "7"), repeat=2):
        assert parse(f"{left}<c>{right}").clean == f"{left} {right}"


@pytest.mark.parametrize("weak", ",;.，；。、．､｡")
def test_punctuation_of_any_script_is_trimmed_off_the_phrase_of_a_lone_marker(weak):
    marked = parse(f"一只猫 {weak}<c>{weak} 水墨 {weak} <s>{weak}")
    assert texts(marked.content) == ["一只猫"] and texts(marked.style) == ["水墨"]
    with pytest.raises(CraftError, match="is not closed"):
        parse(f"猫 <c>{weak} <s>")


@pytest.mark.parametrize(
    "prompt, clean",
    [
        ("猫 <c>，水墨 <s>。", "猫，水墨。"),
        ("（ <c>猫</c> ）、「 <s>水墨</s> 」", "（猫）、「水墨」"),
        ("猫 <c>！<s>水墨</s> ：夜", "猫！水墨：夜"),
    ],
)
def test_no_space_stays_before_full_width_punctuation_or_in_full_width_brackets(prompt, clean):
    assert parse(prompt).clean == clean


def test_letter_case_of_markers_does_not_matter():
    marked = parse("<C>a dog</c> in ink <S>")
    assert marked.clean == "a dog in ink"
    assert texts(marked.content) == ["a dog"] and texts(marked.style) == ["in ink"]


def test_spans_point_into_the_prompt_as_typed():
    prompt = "A  dog <c>, in\n ink <s>; then <C> a  cat </C>."
    marked = parse(prompt)
    for phrase in (*marked.content, *marked.style):
        assert prompt[phrase.start : phrase.end] == phrase.text
    assert texts(marked.content) == ["A  dog", "a  cat"] and texts(marked.style) == ["in\n ink"]
    assert [prompt[a:b].lower() for a, b, _ in marked.markers] == ["<c>", "<s>", "<c>", "</c>"]
    assert [role for *_, role in marked.markers] == ["content", "style", "content", "content"]


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("a dog</c>", "no marker to close"),
        ("a dog <c> in ink</c> x</c>", "no marker to close"),
        ("<c>a</s>", "<c> at character 1 is not closed"),
        ("<c>a dog in <s>ink</s></c>", "between <c> and </c>"),
        ("<c>a dog <s>in</c> ink</s>", "between <c> and </c>"),
        ("<c>a dog <s> here</c>", "between <c> and </c>"),
        ("x <c></c>", "marks no words"),
        ("x <c> \n </c>", "marks no words"),
        ("x <c>,</c>", "marks no words"),
        ("<c> a dog", "<c> at character 1 is not closed.* Add </c>"),
        ("a dog <c> <s>", "<s> at character 11 is not closed"),
        ("a dog <c>, <s> ink", "<s> at character 12 is not closed"),
        ("<c>, <s> dog", "is not closed"),
        ("a <</c>c> dog <c>", "no marker to close"),
        ("a dog <<c>c>", "leaves another marker"),
    ],
)
def test_mistakes_are_refused(prompt, message):
    with pytest.raises(CraftError, match=message):
        parse(prompt)


@pytest.mark.parametrize(
    ("prompt", "places"),
    [
        ("a photo of <c>a dog in <s>ink</s>", [12]),
        ("猫 <C>狗", [3]),
        ("a fox (<s>ink)", [8]),
        ("a dog <c> in ink <s>", []),
        ("a dog<c>in ink<s>", []),
        ("a dog <c>, in ink <s>.", []),
        ("<c>a dog</c> in <s>ink</s>", []),
    ],
)
def test_a_lone_marker_that_stands_like_an_opening_one_is_told(prompt, places):
    told = parse(prompt).unclosed
    for place, said in zip(places, told, strict=True):
        assert f"at character {place} is not closed" in said
    assert all(said.endswith((" </c>.", " </s>.", " </C>.")) for said in told)


def test_whatever_is_typed_reads_clean_or_is_told():
    """Clean prompts hold no marker, are read again unchanged, and keep every other word."""
    pieces = ["<c>", "</c>", "<s>", "</s>", " ", "\n", "a dog", "ink", ",", "(", ")", "  ", "BREAK"]
    random.seed(0)
    read = 0
    for _ in range(4000):
        chosen = random.choices(pieces, k=random.randint(1, 9))
        try:
            marked = parse("".join(chosen))
        except CraftError:
            continue
        read += 1
        again = parse(marked.clean)
        assert again.clean == marked.clean and not again.markers
        kept = "".join(piece for piece in chosen if piece[0] != "<")
        assert "".join(marked.clean.split()) == "".join(kept.split())
        assert marked.clean.count("\n") == kept.count("\n")
    assert read > 1000


def test_a_branch_whose_marker_is_absent_has_gamma_zero():
    roles = ["content", "style", "content"]
    assert gammas(parse("a dog <c> in ink <s>"), roles) == (1.0, 1.0, 1.0)
    assert gammas(parse("a dog <c> in ink"), roles) == (1.0, 0.0, 1.0)
    assert gammas(parse("a dog in ink <s>"), roles) == (0.0, 1.0, 0.0)
    assert gammas(parse("a dog in ink"), roles) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("dial", [-0.01, 1.01, float("nan")])
def test_a_gamma_outside_its_range_is_refused_not_clamped(dial):
    with pytest.raises(AssertionError, match="gamma"):
        Routing((1.0, dial), (frozenset(), frozenset()))
