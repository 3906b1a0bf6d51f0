"""What is read of a request that sends a LoRA, whoever made it."""

from __future__ import annotations

import pytest
from craft_lora_pack.client.loras.announced import (
    BODY,
    DEEPEST,
    LONGEST_PART,
    announced,
    limit_of,
    lora_parts,
)
from craft_lora_pack.craft_core.errors import CraftError

HASH = "0123456789abcdef" * 4
QUERY = {"name": "style/ink.safetensors", "sha256": HASH, "bytes": "100"}
HEADERS = {"Content-Type": BODY, "Content-Length": "100"}

SOUND = [
    "a.safetensors", "style/ink 2.safetensors", "猫/墨.safetensors", "A.SAFETENSORS",
    "a..b.safetensors", "console.safetensors", "com/com10.safetensors",
    "/".join("a" * (DEEPEST - 1)) + "/b.safetensors", "a" * (LONGEST_PART - 12) + ".safetensors",
]  # fmt: skip
HOSTILE = [
    "", ".", "..", "../a.safetensors", "a/../b.safetensors", "/a.safetensors", "a//b.safetensors",
    "./a.safetensors", "\\a.safetensors", "a\\b.safetensors", "C:a.safetensors", "a\0.safetensors",
    "a\t.safetensors", "a\x7f.safetensors", "a\u202e.safetensors", "\ud800.safetensors",
    "a.safetensors\n", ".a.safetensors", "a /b.safetensors", " a.safetensors", "a.safetensors.",
    "a.safetensors/", "a", "a.pt", "asafetensors", "NUL.safetensors", "b/Com1.x.safetensors",
    "lpt¹.safetensors", "aux .safetensors", "a*.safetensors", "a|b.safetensors",
    "a" * (LONGEST_PART - 11) + ".safetensors", "a/" * DEEPEST + "a.safetensors",
    "a" * 100_000 + ".safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_a_path_inside_a_folder_is_taken(name):
    assert "/".join(lora_parts(name)) == name
    assert announced(QUERY | {"name": name}, HEADERS).name == name


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:20]))
def test_another_name_is_refused(name):
    with pytest.raises(CraftError, match="is no name for a LoRA that is sent"):
        lora_parts(name)


def test_an_offer_has_no_body():
    one = announced(QUERY, HEADERS | {"Content-Length": "0"})
    assert (one.length, one.size, one.sha256, one.parts) == (
        0,
        100,
        HASH,
        ("style", "ink.safetensors"),
    )


@pytest.mark.parametrize("given", [
    {"sha256": HASH[1:]}, {"sha256": HASH.upper()}, {"sha256": f"{HASH}\n"}, {"bytes": "0"},
    {"bytes": "1e3"}, {"bytes": "100\n"}, {"bytes": "9" * 16}, {"bytes": "٣"}, {"bytes": "+1"},
])  # fmt: skip
def test_a_hash_or_size_that_is_none_is_refused(given):
    with pytest.raises(CraftError, match="A file is announced with"):
        announced(QUERY | given, HEADERS)


@pytest.mark.parametrize("length", ["", "99", "101", "-1", "x", "9" * 500])
def test_a_body_of_another_length_is_refused(length):
    with pytest.raises(CraftError, match="100 bytes are announced"):
        announced(QUERY, HEADERS | {"Content-Length": length})


@pytest.mark.parametrize("header", [
    {"origin": "http://a"}, {"Origin": ""}, {"Sec-Fetch-Mode": "cors"}, {"Content-Type": ""},
    {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Encoding": "gzip"},
    {"Transfer-Encoding": "chunked"},
])  # fmt: skip
def test_what_a_page_or_a_proxy_may_make_is_refused(header):
    with pytest.raises(CraftError, match="sends a LoRA|sent compressed"):
        announced(QUERY, HEADERS | header)


@pytest.mark.parametrize(("text", "bytes_"), [
    ("", 0), ("0", 0), ("2GB", 2 * 10**9), ("1.5 gb", 15 * 10**8), (" 10MB ", 10**7),
    ("1TB", 10**12), ("0.001KB", 1), ("0MB", 0),
])  # fmt: skip
def test_a_limit_is_a_number_with_a_unit(text, bytes_):
    assert limit_of(text) == bytes_


@pytest.mark.parametrize(
    "text", ["on", "2", "-1GB", "1e9GB", "GB", "1GB2", "inf", "9" * 5000 + "GB"]
)
def test_another_limit_is_refused(text):
    with pytest.raises(CraftError, match="so no LoRAs are received"):
        limit_of(text)
