"""What guidance multiplies the LoRAs' strengths by, and the strengths to start with."""

import pytest

from craft_core.guidance import GUIDANCE
from craft_core.guidance.reach import guided_strength, overdriven, reaches
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
