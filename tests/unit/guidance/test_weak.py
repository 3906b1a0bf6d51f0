"""Guidance of a role away from its weaker version: the formula, and the limit that is `role`."""

import pytest
import torch

from craft_core.guidance import GUIDANCE, Step, needed
from craft_core.time import Moment

RULE, ROLE = GUIDANCE["weak"], GUIDANCE["role"]
MOMENT = Moment(0.5, 8)


@pytest.fixture
def made():
    random = torch.Generator().manual_seed(5)
    return {e.name: torch.randn(2, 4, 6, 6, generator=random).double() for e in RULE.traits}


def weak(made, scale, **settings):
    return RULE.function(made, Step(scale, MOMENT), **RULE.knobs(settings))


def asked(scale, **settings):
    return set(needed(RULE, Step(scale, MOMENT), RULE.knobs(settings)))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_combination_is_the_formula_term_by_term(made, scale):
    found = weak(made, scale, weight=2.0, content_weight=1.5, style_weight=0.5)
    expected = (
        ROLE.function(made, Step(scale, MOMENT))
        + 1.0 * (made["cond"] - made["weak cond"])
        + 0.5 * (made["content"] - made["weak content"])
        - 0.5 * (made["style"] - made["weak style"])
    )
    torch.testing.assert_close(found, expected)


def test_at_cfg_1_one_weight_is_autoguidance(made):
    expected = made["weak cond"] + 1.8 * (made["cond"] - made["weak cond"])
    torch.testing.assert_close(weak(made, 1.0, weight=1.8), expected)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_where_the_weaker_version_is_the_backbone_it_is_role_guidance(made, scale):
    at_nothing = {f"weak {name}": made["backbone"] for name in ("cond", "content", "style")}
    settings = {"weight": 2.0, "content_weight": 1.5, "style_weight": 3.0}
    expected = ROLE.function(made, Step(scale, MOMENT), **ROLE.knobs(settings))
    torch.testing.assert_close(weak({**made, **at_nothing}, scale, **settings), expected)


def test_it_asks_for_the_weaker_version_of_what_has_a_weight():
    assert asked(1.0) == {"cond"}
    assert asked(1.0, weight=2.0) == {"cond", "weak cond"}
    assert asked(1.0, style_weight=2.0) == {"cond", "style", "weak style"}
    assert asked(2.0, weight=2.0) == {"cond", "uncond", "backbone", "weak cond"}
