"""What guidance multiplies the LoRAs' strengths by, and the strengths to start with."""

import pytest

from craft_core.guidance import GUIDANCE
from craft_core.guidance.reach import (
    Guided,
    guided_strength,
    overdriven,
    overdriven_places,
    reaches,
)
from craft_core.starting import GUIDED_CFG, GUIDED_STRENGTH, MOST_GUIDED_WEIGHT


def by(key, cfg, **settings):
    return reaches(key, cfg, GUIDANCE[key].knobs(settings))


@pytest.mark.parametrize("rule", GUIDANCE.keys())
def test_what_a_new_node_starts_with_is_never_multiplied_too_far(rule):
    started = dict.fromkeys(("content", "style"), GUIDED_STRENGTH)
    assert overdriven(started, by(rule, GUIDED_CFG)) == []


@pytest.mark.parametrize("cfg", [1.0, 2.0, 3.5, 5.0, 7.0, 8.0, 12.0, 20.0])
def test_the_strength_that_a_message_names_is_not_multiplied_too_far(cfg):
    fitting = guided_strength(cfg)
    assert 0 < fitting <= 1 and fitting * cfg <= MOST_GUIDED_WEIGHT
    assert overdriven({"content": fitting}, by("acfg", cfg)) == []
    assert guided_strength(GUIDED_CFG) == GUIDED_STRENGTH


def test_standard_guidance_multiplies_no_strength():
    assert overdriven({"content": 5.0, "style": 5.0}, by("cfg", 20.0)) == []


def test_weights_of_both_roles_and_of_one_add_up():
    reach = by("role", 4.0, weight=1.5, style_weight=2.0)
    assert reach == {"content": ("weight", 1.5), "style": ("weight", 2.5)}
    (said,) = overdriven({"content": 1.0, "style": 1.0}, reach)
    assert "With style_strength, bring the strength to 0.6" in said


def test_roles_of_one_strength_share_a_line():
    (said,) = overdriven({"content": 1.0, "style": -1.0}, by("acfg", 8.0))
    assert said.startswith("Strength 1 times cfg 8 is 8; above 2, pictures burn.")
    assert "With content_strength, style_strength, bring the strength to 0.2" in said
    assert len(overdriven({"content": 1.0, "style": 2.0}, by("acfg", 8.0))) == 2


def test_of_several_settings_those_too_far_are_counted_and_the_farthest_is_named():
    strengths = {"content": -0.75, "style": 0.1}
    settings = [Guided(f"cfg {cfg:g}", strengths, by("acfg", cfg)) for cfg in (2.0, 8.0, 4.0)]
    count, said = overdriven_places(settings)
    assert count == "LoRAs are guided too far in 2 of 3 settings, farthest in cfg 8."
    assert said.startswith("Strength 0.75 times cfg 8 is 6; above 2, pictures burn.")
    assert overdriven_places(settings[:1]) == overdriven_places([]) == []
    assert overdriven_places([Guided("all rows", strengths, by("cfg", 20.0))]) == []


def test_an_input_of_both_roles_is_named_once():
    settings = [Guided("x", {"content": 1.0, "style": 1.0}, by("acfg", 8.0))]
    assert "With strengths, bring" in overdriven_places(settings, "strengths")[1]
