"""Texts with `{a|b}` and comments become what the page may send, the same for the same key."""

import random
import time

import pytest
from craft_lora_pack.client.from_page.dynamic_prompts import (
    MOST_NESTED,
    MOST_TEXT,
    draw_text,
    with_draws,
)
from craft_lora_pack.craft_core.errors import CraftError


def possible(text):
    return {draw_text(text, random.Random(seed)) for seed in range(60)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", {"plain"}),
        ("a {red|blue} ball", {"a red ball", "a blue ball"}),
        ("{a|{b|c}d}", {"a", "bd", "cd"}),
        ("{a|}{x|y}", {"x", "y", "ax", "ay"}),
        ("{only}", {"only"}),
        ("{}", {""}),
        (r"\{a\|b\}", {"{a|b}"}),
        (r"{a\|b|c\}}", {"a|b", "c}"}),
        ("a // not this {x|y}\nb", {"a \nb"}),
        ("a /* nor\nthis */b", {"a b"}),
        ("a{ // first\nx|y}", {"a \nx", "ay"}),
        ("/* never closed {x|x}", {"/* never closed x"}),
        ("/*/ one */{/* two */x}/*/", {"x/*/"}),
        ("{a{b|c}", {"ab", "ac"}),
        ("a} b|c", {"a} b|c"}),
        ("never {closed|open", {"never closed", "never open"}),
        (r"a \( b", {r"a \( b"}),
        ("ends with \\", {"ends with \\"}),
    ],
)
def test_each_option_is_drawn_at_some_time_and_nothing_else(text, expected):
    assert possible(text) == expected


def test_options_are_drawn_alike_often():
    draws = [draw_text("{a|b|c|d}", random.Random(seed)) for seed in range(2000)]
    assert all(430 < draws.count(option) < 570 for option in "abcd")


PROMPT = {
    "1": {"class_type": "Text", "inputs": {"text": "{a|b|c|d|e|f|g}", "other": "{x|y}"}},
    "2": {"class_type": "Text", "inputs": {"text": ["1", 0]}},
}


def test_the_same_key_draws_the_same_and_others_others():
    texts = [("1", "text"), ("2", "text"), ("2", "gone")]
    results = [with_draws(PROMPT, texts, f"job {number}") for number in range(20)]
    assert results == [with_draws(PROMPT, texts, f"job {number}") for number in range(20)]
    assert len({one["1"]["inputs"]["text"] for one in results}) > 3
    assert all(one["1"]["inputs"]["other"] == "{x|y}" for one in results)
    assert all(one["2"] == PROMPT["2"] for one in results)
    assert PROMPT["1"]["inputs"]["text"] == "{a|b|c|d|e|f|g}"


def test_two_texts_of_a_prompt_are_drawn_apart():
    both = {"1": {"inputs": {"a": "{1|2|3|4|5|6|7|8}", "b": "{1|2|3|4|5|6|7|8}"}}}
    results = [with_draws(both, [("1", "a"), ("1", "b")], str(n))["1"]["inputs"] for n in range(20)]
    assert any(one["a"] != one["b"] for one in results)


def test_braces_inside_one_another_without_end_are_refused_in_words():
    draw_text("{" * MOST_NESTED + "a" + "}" * MOST_NESTED, random.Random(0))
    with pytest.raises(CraftError, match="inside one another"):
        draw_text("{" * 100_000, random.Random(0))


@pytest.mark.parametrize(
    "part",
    ["/* ", "/*", "//\n", "{a|b}", "{}", r"\{", "|", "}", "\\\\{x}"],
)
def test_a_long_text_takes_no_longer_than_it_is_long(part):
    text = "{" * (MOST_NESTED - 1) + part * ((MOST_TEXT - MOST_NESTED) // len(part))
    start = time.process_time()
    draw_text(text, random.Random(0))
    assert time.process_time() - start < 2


def test_more_text_than_is_drawn_from_is_refused_and_other_text_is_not_counted():
    halves = {"1": {"inputs": {"a": "{}" * (MOST_TEXT // 4), "b": "plain " * MOST_TEXT}}}
    texts = [("1", "a"), ("1", "b")]
    assert with_draws(halves, texts, "")["1"]["inputs"]["a"] == ""
    with pytest.raises(CraftError, match="more than 262144 characters"):
        with_draws(halves, [*texts, *texts, ("1", "a")], "")
