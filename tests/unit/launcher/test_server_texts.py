"""The page has templates of what the server says in English, and Chinese has each of them."""

import json
import re

import pytest

from launcher.publish.core_script import core_texts
from launcher.publish.locales import LOCALES, MAIN, PHRASES, SERVER, read_phrases
from launcher.publish.server_texts import VALUE, is_said

ZH = LOCALES / "zh"
TABLE = json.loads((ZH / PHRASES).read_text("utf-8"))["server"]


@pytest.mark.parametrize("template", TABLE)
def test_the_code_says_what_a_template_says(template):
    """After a change of such a text: its Chinese is to be put under the new one."""
    assert is_said(template)


@pytest.mark.parametrize("template", [*TABLE, *core_texts()])
def test_a_template_has_words_between_its_values(template):
    assert re.search(r"[A-Za-z]", VALUE.sub("", template))
    assert "}{" not in template


@pytest.mark.parametrize("template", TABLE)
def test_a_value_has_one_name_and_stands_in_chinese_once(template):
    names = VALUE.findall(template)
    assert len(names) == len(set(names))
    assert sorted(VALUE.findall(TABLE[template])) == sorted(names)


def test_a_value_that_takes_the_rest_of_a_line_is_the_last():
    taking = [template for template in TABLE if "{line" in template]
    assert taking and all(template.endswith("}") for template in taking)


def test_a_text_that_the_code_no_longer_says_is_noticed():
    assert is_said("step {number} of {number_all}, loss {x}")
    assert is_said("{text}, rank up to {x}; relative error {y}")
    for changed in (
        "step {number} out of {number_all}, loss {x}",
        "step {number} of {number_all}, losses {x}",
        "{x}, step {number} of {number_all}, loss {y}",
        "No text of this pack.",
    ):
        assert not is_said(changed)


def test_main_has_the_texts_that_core_and_page_share_and_those_of_the_server_alone():
    written = json.loads((ZH / MAIN).read_text("utf-8"))[SERVER]
    shared = core_texts()
    assert shared and not set(shared) & set(TABLE)
    assert list(written) == [*shared, *TABLE]
    assert {text: written[text] for text in TABLE} == TABLE
    phrases = read_phrases(ZH)
    assert {text: written[text] for text in shared} == {one: phrases.said(one) for one in shared}
