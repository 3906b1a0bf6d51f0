"""What the page gets to show on a node."""

from __future__ import annotations

import html

import pytest
from craft_lora_pack.comfy_adapter.page.notice import as_shown

TEXTS = [
    "The prompt has no <s>, so the style LoRA is off.",
    "No content pattern matches this model: up_blocks.*.attentions.*.",
    "content __my_lora__ [v1].safetensors: strength 0.8 | `a & b` ~x~ C:\\loras",
    "Layer sets: all\n- not a list\n1. nor this\n# nor a title",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_out_of_the_page_as_it_was_written(text):
    shown = as_shown(text)
    assert html.unescape(shown).replace("  \n", "\n") == text
    assert not set("<>*_`[]~|\\") & set(shown)


def test_no_line_begins_as_markdown_and_every_one_is_broken():
    lines = as_shown(TEXTS[-1]).split("  \n")
    assert len(lines) == 4
    assert lines[1].startswith("&#45;") and "&#46;" in lines[2] and lines[3].startswith("&#35;")


def test_plain_words_are_left_as_they_are():
    assert as_shown("step 3 of 100, loss 0.1234 (best 0.1)") == (
        "step 3 of 100, loss 0.1234 (best 0.1)"
    )
