"""Role guidance: the identity, its limits, and which evaluations it asks for."""

import pytest
import torch
from rounding import units

from craft_core.guidance import GUIDANCE, Step, needed
from craft_core.time import Moment

MOMENT = Moment(0.5, 8)
NAMES = ("cond", "uncond", "backbone", "content", "style")
RULE = GUIDANCE["role"]
SCALES = [1.0, 2.0, 5.0]


@pytest.fixture
def made():
    random = torch.Generator().manual_seed(3)
    return {name: torch.randn(2, 4, 6, 6, generator=random).double() for name in NAMES}


def role(made, scale, shares=(1.0, 1.0), **settings):
    return RULE.function(made, Step(scale, MOMENT, shares), **RULE.knobs(settings))


def asked(scale, shares=(1.0, 1.0), **settings):
    return set(needed(RULE, Step(scale, MOMENT, shares), RULE.knobs(settings)))


def identity(made, scale, both, content, style):
    """As the formula is written, term by term."""
    backbone = made["backbone"]
    total = made["uncond"] + scale * (backbone - made["uncond"]) if scale != 1 else backbone
    total = total + (made["cond"] - backbone)
    for name, weight in (("cond", both), ("content", content), ("style", style)):
        total = total + (weight - 1.0) * (made[name] - backbone)
    return total


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("weights", [(1, 1, 1), (2, 1, 1), (1, 1.5, 0.5), (0, 3, 2)])
def test_the_combination_is_the_formula_term_by_term(made, scale, weights):
    names = ("weight", "content_weight", "style_weight")
    found = role(made, scale, **dict(zip(names, map(float, weights), strict=True)))
    torch.testing.assert_close(found, identity(made, scale, *weights))


def test_a_case_by_hand():
    values = {"uncond": 1.0, "backbone": 2.0, "content": 4.0, "style": 3.0, "cond": 5.0}
    made = {name: torch.full((1, 1), value) for name, value in values.items()}
    found = role(made, 3.0, content_weight=2.0, style_weight=1.5)
    assert found.item() == 1 + 3 * (2 - 1) + (5 - 2) + 1 * (4 - 2) + 0.5 * (3 - 2)


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.1, 7.5])
def test_a_weight_of_cfg_is_acfg_bitwise_and_asks_for_no_more(made, scale):
    acfg = GUIDANCE["acfg"].function(made, Step(scale, MOMENT))
    assert torch.equal(role(made, scale, weight=scale), acfg)
    assert asked(scale, weight=scale) == ({"cond"} if scale == 1.0 else {"cond", "uncond"})


@pytest.mark.parametrize("scale", SCALES)
def test_weights_of_zero_are_the_guided_backbone(made, scale):
    plain = GUIDANCE["cfg"].function({**made, "cond": made["backbone"]}, Step(scale, MOMENT))
    torch.testing.assert_close(role(made, scale, weight=0.0), plain)


@pytest.mark.parametrize("scale", SCALES)
def test_with_one_lora_absent_its_weight_does_not_matter(made, scale):
    alone = {**made, "content": made["cond"], "style": made["backbone"]}
    found = role(alone, scale, content_weight=1.7, style_weight=9.0)
    torch.testing.assert_close(found, role(alone, scale, weight=1.7))


def test_each_weight_other_than_one_costs_its_own_evaluation_and_the_backbones():
    assert asked(1.0) == {"cond"}
    assert asked(1.0, weight=2.0) == {"cond", "backbone"}
    assert asked(1.0, content_weight=2.0) == {"cond", "backbone", "content"}
    assert asked(1.0, style_weight=0.5) == {"cond", "backbone", "style"}
    assert asked(4.0) == {"cond", "uncond", "backbone"}
    assert asked(4.0, content_weight=2.0, style_weight=2.0) == set(NAMES)


def test_a_share_moves_a_weight_towards_one(made):
    half = role(made, 1.0, (0.5, 0.25), content_weight=3.0, style_weight=5.0)
    torch.testing.assert_close(half, role(made, 1.0, content_weight=2.0, style_weight=2.0))


def test_the_weight_of_both_follows_the_larger_share(made):
    assert torch.equal(role(made, 1.0, (0.25, 0.5), weight=3.0), role(made, 1.0, weight=2.0))


def test_where_no_share_is_left_nothing_more_is_asked_for():
    assert asked(1.0, (0.0, 0.0), weight=3.0, content_weight=2.0, style_weight=2.0) == {"cond"}
    assert asked(1.0, (0.0, 1.0), content_weight=2.0) == {"cond"}


# Control of the size


@pytest.mark.parametrize("norm", ["rescale", "orthogonal"])
@pytest.mark.parametrize("scale", SCALES)
def test_at_weights_of_one_the_size_is_left_alone(made, norm, scale):
    assert torch.equal(role(made, scale, norm=norm), role(made, scale))


def test_rescaled_pictures_have_the_deviation_of_the_conditional_prediction(made):
    found = role(made, 1.0, weight=4.0, norm="rescale")
    free = role(made, 1.0, weight=4.0)
    axes = (1, 2, 3)
    wanted = made["cond"].std(dim=axes, correction=0)
    torch.testing.assert_close(found.std(dim=axes, correction=0), wanted)
    assert (free.std(dim=axes, correction=0) > 1.5 * wanted).all()
    torch.testing.assert_close(found / found.norm(), free / free.norm(), rtol=0.1, atol=0.1)


def test_an_orthogonal_addition_has_no_part_along_the_conditional_prediction(made):
    added = role(made, 1.0, weight=4.0, norm="orthogonal") - made["cond"]
    along = (added * made["cond"]).sum(dim=(1, 2, 3))
    torch.testing.assert_close(along, torch.zeros_like(along))
    free = role(made, 1.0, weight=4.0) - made["cond"]
    rest = free - added  # what was dropped is a multiple of the prediction, for each image
    ratio = rest / made["cond"]
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))


@pytest.mark.parametrize("norm", ["rescale", "orthogonal"])
def test_a_flat_prediction_stays_finite(norm):
    flat = {name: torch.zeros(1, 2, 2) for name in NAMES}
    assert torch.isfinite(role(flat, 1.0, weight=3.0, norm=norm)).all()


def test_single_precision_is_as_good_as_double(made):
    single = {name: one.float() for name, one in made.items()}
    settings = {"content_weight": 1.5, "style_weight": 2.0}
    found = role(single, 3.0, **settings)
    assert found.dtype == torch.float32
    assert units(found, role(made, 3.0, **settings).float()) <= 256
