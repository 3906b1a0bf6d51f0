"""Methods as lines of text."""

import pytest

from craft_core.errors import CraftError
from craft_core.fusion import FUSION
from craft_core.fusion.lines import parse_lines
from craft_core.guidance import GUIDANCE

PRESETS = ("auto", "b-lora", "all")


def parsed(text):
    return parse_lines(text, PRESETS, GUIDANCE)


def test_every_method_can_be_listed_by_its_key_alone():
    lines = parsed("\n".join(FUSION.keys()))
    assert [line.method.key for line in lines] == list(FUSION.keys())
    assert all(line.knobs == {} and line.layer_sets == "" for line in lines)
    assert all(line.guidance == "" and line.label == line.method.key for line in lines)


def test_settings_are_read_as_their_knobs_types():
    (line,) = parsed("k_lora:pattern=s*,alpha = 2, seed=18446744073709551615")
    assert line.knobs == {"pattern": "s*", "alpha": 2.0, "seed": 2**64 - 1}
    assert line.label == "k_lora\npattern = s*\nalpha = 2\nseed = 18446744073709551615"


def test_layer_sets_and_guidance_are_settings_of_every_method():
    first, second = parsed("craft: layer_sets = b-lora, guidance = cfg\ncraft: guidance = acfg")
    assert (first.layer_sets, first.guidance, first.knobs) == ("b-lora", "cfg", {})
    assert (second.layer_sets, second.guidance) == ("", "acfg")


def test_a_line_has_the_settings_of_its_guidance_rule_beside_its_own():
    first, second = parsed(
        "k_lora: guidance = weak, alpha = 2, weight = 1.5, fraction = 0.25\ndirect: guidance=role"
    )
    assert (first.guidance, first.knobs) == ("weak", {"alpha": 2.0})
    assert first.weights == {"weight": 1.5, "fraction": 0.25}
    assert (second.guidance, second.knobs, second.weights) == ("role", {}, {})


def test_no_method_and_no_rule_call_a_setting_alike():
    of_methods = {one.name for method in FUSION for one in method.parameters}
    of_rules = {one.name for rule in GUIDANCE for one in rule.parameters}
    assert not of_methods & (of_rules | {"layer_sets", "guidance"})


def test_blank_lines_and_comments_are_skipped():
    lines = parsed("\n# all of them\n  direct  # the baseline\n\nk_lora: beta = 1 # later\n")
    assert [line.label for line in lines] == ["direct", "k_lora\nbeta = 1"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "No method is listed"),
        ("# direct", "No method is listed"),
        ("direct\nklora", "Line 2: 'klora' is no fusion method.*k_lora"),
        ("k_lora: patern = s", "has no setting 'patern'.*pattern"),
        ("k_lora: alpha = much", "alpha = 'much'.*a number"),
        ("switch: every = 2.5", "every = '2.5'.*a whole number"),
        ("k_lora: alpha = 99", "alpha = 99.0.*0.0 to 10.0"),
        ("k_lora: alpha = nan", "alpha = nan"),
        ("k_lora: pattern = t", "pattern = 't'.*s\\*"),
        ("k_lora: alpha", "'alpha' is no setting"),
        ("k_lora: alpha = 1, alpha = 2", "set twice"),
        ("craft: layer_sets = mine", "layer_sets = mine.*b-lora"),
        ("craft: guidance = none", "guidance = none.*acfg"),
        ("direct\ndirect", "Line 2: 'direct' is there already"),
        ("k_lora\nk_lora: alpha = 1.50, pattern = s", "Line 2: .* is there already"),
        ("direct: weight = 2", "has no setting 'weight', which the guidance rules role.*have"),
        ("direct: guidance = acfg, weight = 2", "no setting 'weight'.*guidance = role"),
        ("direct: guidance = role, weight = 99", "role: weight = 99.0.*0.0 to 20.0"),
        ("direct: guidance = role\ndirect: weight = 1, guidance = role", "Line 2: .* already"),
        ("k_lora: layer_sets = all", "k_lora does not use layer_sets.*craft"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_what_is_possible(text, part):
    with pytest.raises(CraftError, match=f"(?s){part}"):
        parsed(text)
