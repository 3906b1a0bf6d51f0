"""The laws of every guidance rule, swept over the registry; which gates each kind of row gets."""

import pytest
import torch
from rounding import units

from craft_core.errors import CraftError
from craft_core.guidance import GUIDANCE, Evaluation, evaluation, row_gates
from craft_core.time import Moment

SCALES = [0.0, 1.0, 1.5, 7.5, 30.0]
MOMENTS = [Moment(0.0, 4), Moment(1.0, 4)]

every_rule = pytest.mark.parametrize("rule", [*GUIDANCE], ids=GUIDANCE.keys())
every_moment = pytest.mark.parametrize("moment", MOMENTS, ids=["first", "last"])


def predictions_for(rule, seed=0, shape=(2, 4, 3, 8, 8)):
    random = torch.Generator().manual_seed(seed)
    return {asked.name: torch.randn(shape, generator=random) for asked in rule.traits}


def guided(rule, predictions, scale, moment=MOMENTS[0]):
    return rule.function(predictions, scale, moment, **rule.knobs({}))


@every_rule
def test_a_rule_names_its_evaluations_once_each_and_says_what_the_samplers_own_two_are(rule):
    names = [asked.name for asked in rule.traits]
    assert len(set(names)) == len(names) and all(isinstance(e, Evaluation) for e in rule.traits)
    assert evaluation(rule, "cond").prompted and not evaluation(rule, "uncond").prompted
    with pytest.raises(CraftError, match="no evaluation 'third'"):
        evaluation(rule, "third")


@every_rule
@every_moment
@pytest.mark.parametrize("scale", SCALES)
def test_equal_predictions_give_that_prediction_bitwise(rule, scale, moment):
    same = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    predictions = {asked.name: same.clone() for asked in rule.traits}
    assert torch.equal(guided(rule, predictions, scale, moment), same)


@every_rule
@every_moment
def test_at_scale_one_a_rule_gives_the_conditional_prediction(rule, moment):
    predictions = predictions_for(rule)
    assert units(guided(rule, predictions, 1.0, moment), predictions["cond"]) <= 4


@every_rule
@every_moment
@pytest.mark.parametrize("scale", SCALES)
def test_inputs_are_not_written_to(rule, scale, moment):
    predictions = predictions_for(rule)
    before = {name: made.clone() for name, made in predictions.items()}
    guided(rule, predictions, scale, moment)
    assert predictions.keys() == before.keys()
    assert all(torch.equal(predictions[name], made) for name, made in before.items())


@every_rule
@every_moment
@pytest.mark.parametrize("scale", SCALES)
def test_images_in_a_batch_do_not_touch_each_other(rule, scale, moment):
    predictions = predictions_for(rule)
    second = {name: made[1:] for name, made in predictions.items()}
    both = guided(rule, predictions, scale, moment)
    assert torch.equal(both[1:], guided(rule, second, scale, moment))


@pytest.mark.parametrize("key", ["cfg", "acfg"])
@pytest.mark.parametrize("scale", SCALES)
def test_guidance_is_the_papers_formula_with_omega_one_less(key, scale):
    rule = GUIDANCE[key]
    made = {name: prediction.double() for name, prediction in predictions_for(rule).items()}
    omega = scale - 1.0
    paper = (1.0 + omega) * made["cond"] - omega * made["uncond"]
    torch.testing.assert_close(guided(rule, made, scale), paper)


@pytest.mark.parametrize("key", ["cfg", "acfg"])
def test_scale_zero_is_the_unconditional_prediction_bitwise(key):
    predictions = predictions_for(GUIDANCE[key])
    assert torch.equal(guided(GUIDANCE[key], predictions, 0.0), predictions["uncond"])


def test_the_two_rules_differ_in_the_rows_without_the_prompt_alone():
    asymmetric, standard = GUIDANCE["acfg"], GUIDANCE["cfg"]
    assert evaluation(asymmetric, "cond") == evaluation(standard, "cond")
    assert evaluation(standard, "uncond").branches
    assert not evaluation(asymmetric, "uncond").branches


@every_rule
def test_conditional_rows_get_the_gates_themselves(rule):
    gates = torch.rand(2, 5, 3)
    assert row_gates(gates, evaluation(rule, "cond")) is gates


def test_standard_unconditional_rows_get_the_gates_themselves():
    gates = torch.rand(2, 5, 3)
    assert row_gates(gates, evaluation(GUIDANCE["cfg"], "uncond")) is gates


def test_asymmetric_unconditional_rows_get_one_view_of_the_backbone_alone():
    gates = torch.rand(2, 5, 3)
    zeros = row_gates(gates, evaluation(GUIDANCE["acfg"], "uncond"))
    assert zeros.shape == (1, 5, 3) and zeros.dtype == gates.dtype and not zeros.any()
    assert gates.all()
