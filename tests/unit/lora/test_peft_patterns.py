"""PEFT's patterns: what re.match gives, in one pass over the name."""

import random
import re
import warnings

import pytest

from craft_core.lora.peft_patterns import LARGEST, LONGEST, MOST, NotMatched, Patterns

NAMES = [
    "", "a", "b", "ab", "aab", "abb", "a.b", "b.a", "a.a.b", "ab.ab", "a1", "a10.b", "1", "1.2",
    "down_blocks.1.attentions.0.to_q", "down_blocks.10.attentions.0.to_q", "xattn1.to_q",
    "transformer_blocks.0.attn1.to_out.0", "to_q", "to_k", "text_model.layers.11.mlp.fc1", "a-b",
]  # fmt: skip
WRITTEN = [
    "to_q", "attn1.to_q", "to_q|to_k", "(to_q|to_k)", ".*to_q", r".*\.to_(q|k|v)", "^a.b",
    r"down_blocks\.1\..*", r"down_blocks\.\d+\.attentions\.0\.to_q", r"layers\.(0|11)\.mlp\.fc\d",
    r"(?:down|up)_blocks\.[0-3]\..*to_[qkv]", "a+b?", "a*", "a{2}b", "a{1,2}b{0,1}", r"[^.]+", "$",
    "^$", "a|", r"\w+\.\w", "a.*?b", r"[\d.]+", "[a-b]+$", "(a|b)(a|b)", "^(a|b)|1", r"\D+", r"\W",
    "[]a]", "to_out.0",
]  # fmt: skip


def peft(pattern, name):
    """As PEFT matches, by the standard library."""
    return re.match(rf"(?:.*\.)?(?:{pattern})$", name) is not None


def ours(pattern, name):
    return Patterns({pattern: True}).first(name, False)


@pytest.mark.parametrize("pattern", WRITTEN)
def test_a_pattern_matches_what_peft_matches(pattern):
    assert [ours(pattern, name) for name in NAMES] == [peft(pattern, name) for name in NAMES]


def test_random_patterns_match_what_peft_matches():
    chance = random.Random(0)
    pieces = ["a", "b", r"\.", ".", "[ab]", "[^a]", r"\w", r"\d", "(", ")", "|", "^", "$", "1", "_"]
    repeats = ["", "", "", "*", "+", "?", "{2}", "{0,2}", "+?", "*?"]
    compared = 0
    for _ in range(8000):
        pattern = "".join(
            chance.choice(pieces) + chance.choice(repeats) for _ in range(chance.randint(1, 7))
        )
        names = ["".join(chance.choices("ab.1_", k=chance.randint(0, 7))) for _ in range(8)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                re.compile(pattern)
            found = [ours(pattern, name) for name in names]
        except (re.error, NotMatched):
            continue
        if re.fullmatch(r"\w+(\.\w+)+", pattern):
            continue  # a plain name with dots: the next test
        assert found == [peft(pattern, name) for name in names], pattern
        compared += 1
    assert compared > 1500


def test_no_pattern_is_read_that_the_standard_library_refuses():
    for pattern in ["(", ")", "a)", "(a", "[a", "*", "+a", "a**", "a{2", "\\", "[z-a]", "a{3,2}"]:
        with pytest.raises(NotMatched):
            Patterns({pattern: 1})


def test_a_plain_name_matches_by_component_and_its_dots_are_dots():
    table = Patterns({"attn1.to_q": 1, r"attn2\.to_q": 2})
    assert table.first("blocks.0.attn1.to_q", None) == 1
    assert table.first("attn2.to_q", None) == 2
    assert table.first("blocks.0.xattn1.to_q", None) is None
    assert table.first("attn1_to_q", None) is None


def test_the_first_pattern_of_a_table_wins():
    assert Patterns({"to_.": 1, "a.to_q": 2}).first("a.to_q", None) == 1
    assert Patterns({"a.to_q": 2, "to_[qk]": 1}).first("a.to_q", None) == 2
    assert Patterns({"x|to_k": 1, "to_k|to_q": 2, "to_[q]": 3}).first("a.to_q", None) == 2


@pytest.mark.parametrize(
    "pattern",
    [r"(\w+\.?)+!", "(a+)+b", "(a|aa)*b", r"(.*,){20}x", r"(a)\1", "(?=a)b", "(?P<x>a)", r"\bto_q"]
    + ["a^b", "a$b", "x" * LONGEST + ".*", "(" * 50 + "a" + ")" * 50, "a{999}a{999}a{999}"]
    + ["(a|b)" * 20, r"[\.-a]", "a*+", r"\Z"],
)
def test_other_patterns_are_refused_with_a_reason(pattern):
    with pytest.raises(NotMatched, match="pattern"):
        Patterns({pattern: 1})


def test_many_patterns_are_refused_unless_they_are_plain():
    plain = {f"blocks.{number}.to_q": number for number in range(5000)}
    assert Patterns(plain).first("unet.blocks.4999.to_q", None) == 4999
    with pytest.raises(NotMatched, match=str(LARGEST)):
        Patterns({f"blocks.{number}.*": number for number in range(LARGEST)})
    with pytest.raises(NotMatched, match=str(MOST)):
        Patterns({str(number): number for number in range(MOST + 1)})


def test_patterns_that_lead_everywhere_are_given_up():
    table = Patterns({"|".join(f".*a.{{{n}}}b" for n in range(50)): 1})
    chance = random.Random(0)
    with pytest.raises(NotMatched, match="too many ways"):
        for _ in range(5000):
            table.first("".join(chance.choices("abc.", k=300)), None)


def test_whole_names_as_diffusers_writes_them_are_looked_up():
    names = [f"transformer_blocks.{n}.attn.to_q" for n in range(5000)]
    table = {f"^{name}": n for n, name in enumerate(names)} | {"^proj_out$": -1}
    patterns = Patterns(table)
    assert [patterns.first(name, None) for name in names] == list(range(5000))
    assert patterns.first("proj_out", None) == -1
    assert patterns.first("x.transformer_blocks.1.attn.to_q", None) is None
    assert patterns.first("transformer_blocks.1.attn.to_q.x", None) is None


def test_the_first_pattern_decides_in_whatever_way_it_is_looked_up():
    first = Patterns({"^a.b": 1, "b": 2, ".*b": 3})
    assert [first.first(name, None) for name in ("a.b", "x.b", "xb", "b")] == [1, 2, 3, 2]
    last = Patterns({".*b": 3, "b": 2, "^a.b": 1})
    assert [last.first(name, None) for name in ("a.b", "x.b")] == [3, 3]


def test_each_refusal_is_an_error_of_its_own():
    """One that is raised again keeps every caller's frame alive."""
    patterns = Patterns({f".*a.{{0,{40 + n}}}": n for n in range(20)})
    names = ("".join(random.Random(n).choices("ab", k=500)) for n in range(3000))
    raised = []
    for name in names:
        try:
            patterns.first(name, None)
        except NotMatched as error:
            raised.append(error)
    assert len(raised) > 1 and raised[0] is not raised[-1]
