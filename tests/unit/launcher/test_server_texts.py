"""The page has templates of what the server says in English, and Chinese has each of them."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator, Sequence

import pytest
from playwright._impl._driver import compute_driver_executable

from craft_core.training import TRAINING
from craft_core.training.slots import PictureSlot
from launcher.paths import ROOT
from launcher.publish.core_script import core_texts
from launcher.publish.locales import LOCALES, MAIN, PHRASES, SERVER, read_phrases
from launcher.publish.server_texts import (
    COMMAND_LINE,
    ROOMS,
    VALUE,
    error_texts,
    is_said,
    lacking,
)

WORDS = {"role", "side", "what", "noun"}  # values that the code has words of ours for
ZH = LOCALES / "zh"
NODE, _ = compute_driver_executable()  # node as the browser tier brings it
SCRIPT = ROOT / "tests" / "web" / "say_of_server.mjs"
# Values by how their names begin, and what the page makes of each.
SAMPLES = {
    "text": ("training", "训练"), "noun": ("clock", "时钟"), "role": ("content", "内容"),
    "number": ("7", "7"), "file": ("a. b.safetensors", "a. b.safetensors"),
    "quoted": ("'a. b'", "'a. b'"),
}  # fmt: skip
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


def test_every_error_that_a_page_may_show_has_its_chinese():
    """Of a text that the code hands on, only what it writes itself is looked at."""
    texts = list(error_texts())
    assert len({text for _, text in texts}) > 500
    assert not {file for file, _ in texts} & set(COMMAND_LINE)
    without = set(lacking((text for _, text in texts), [*TABLE, *core_texts()]))
    assert [(file, text) for file, text in texts if text in without] == []


def test_an_error_without_its_chinese_is_noticed():
    templates = ["{name} is set twice.", "Of a {role}", "{text}; or {x}", "Saved {file}. Done."]
    said = ["{} is set twice", "Of a style.", "no such thing; or {}", "{} = {}", "{}: {} = {}"]
    assert lacking([*said, "Saved {}. Done", "Of a {}. {} is set twice"], templates) == []
    for text in ("It is set twice", "Of a pair", "{} = one", "no such thing", "Of a {}. No."):
        assert lacking([text], templates) == [text]


def test_no_two_templates_make_the_same_texts():
    forms = [VALUE.sub("{}", template) for template in (*TABLE, *core_texts())]
    assert len(set(forms)) == len(forms)


def test_words_in_a_sentence_are_said_in_its_language():
    """Such as content and style: no value that is one stays as it is, but in an input's name."""
    templates = {VALUE.sub("{}", template): template for template in TABLE}
    found = 0
    for values, form in joined_texts():
        template = templates.get(form, "")
        for value, name in zip(values, VALUE.findall(template), strict=False):
            if value.split(".")[-1] in WORDS and f"{name}_" not in template:
                assert re.match(r"\{(role|text|noun)", name), template
                found += 1
    assert found > 10


def joined_texts() -> Iterator[tuple[list[str], str]]:
    """(the values, the text with {} for each) of every text with values in the code."""
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", "") for part in node.values]
                values = [ast.unparse(one) for one in parts if isinstance(one, ast.AST)]
                yield values, "".join(one if isinstance(one, str) else "{}" for one in parts)


def test_what_pictures_of_a_training_are_called_is_in_the_table():
    slots = [slot for method in TRAINING for slot in method.traits.slots.of(PictureSlot)]
    nouns = {slot.noun for slot in slots}
    assert {"training", "content"} < nouns
    assert nouns <= set(TABLE)


def test_the_page_says_each_template_with_its_values_and_alters_none():
    """No other template stands in the way, and a full stop in a value cuts nothing."""
    asked, wanted = zip(*(sampled(*one) for one in TABLE.items()), strict=True)
    said = zip(asked, said_in_chinese(asked), wanted, strict=True)
    assert [one for one in said if one[1] != one[2]] == []


def test_a_long_list_is_said_to_its_end():
    faults = "; ".join(f"a{number}.safetensors: 3 keys (x, y and 2 more)" for number in range(60))
    (said,) = said_in_chinese([f"Something given matches nothing: {faults}. Choose one."])
    assert said.count("3 个键（x, y 等，另有 2 个）") == 60
    assert said.endswith("请选一个。")


def said_in_chinese(texts: Sequence[str]) -> list[str]:
    done = subprocess.run(
        [NODE, str(SCRIPT)], input=json.dumps(texts), capture_output=True, text=True, cwd=ROOT,
        check=False, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def sampled(english: str, chinese: str) -> tuple[str, str]:
    """A sentence of the template, with values, and what the page is to say of it."""
    other = "x_1" if ". " in english else "x_1. Y"

    def sample(name: str) -> tuple[str, str]:
        return next((SAMPLES[kind] for kind in SAMPLES if name.startswith(kind)), (other, other))

    text = re.sub(r"\{(\w+)\}", lambda found: sample(found[1])[0], english)
    words = re.sub(
        r"\{(\w+)\}(_?)",  # a role before an underscore is part of an input's name
        lambda found: sample(found[1])[0 if found[2] else 1] + found[2],
        chinese,
    )
    if english.endswith(".."):
        return text, words
    stop = "." if re.search(r"\{line\w*\}$", english) else "。"
    return text.removesuffix(".") + ".", words.removesuffix("。") + stop
