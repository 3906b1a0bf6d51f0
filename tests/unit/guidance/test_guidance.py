"""The laws of every guidance rule, swept over the registry; which gates each kind of row gets."""

import pytest
import torch
from rounding import units

from craft_core.errors import CraftError
from craft_core.guidance import GUIDANCE, Evaluation, Step, evaluation, needed, row_gates, sampled
from craft_core.time import Moment

SCALES = [0.0, 1.0, 1.5, 7.5, 30.0]
MOMENTS = [Moment(0.0, 4), Moment(1.0, 4)]


def settings_of(rule):
    """The defaults, and each knob at the ends of its range or at each of its choices, the others
    off their neutral value."""
    moved = {
        p.name: p.knob.choices[0] if p.knob.choices else 0.5 * (p.default + p.knob.maximum)
        for p in rule.parameters
    }
    yield {}
    for p in rule.parameters:
        for value in p.knob.choices or (p.knob.minimum, p.knob.maximum):
            yield {**moved, p.name: value}


every_rule = pytest.mark.parametrize("rule", [*GUIDANCE], ids=GUIDANCE.keys())
every_moment = pytest.mark.parametrize("moment", MOMENTS, ids=["first", "last"])
every_setting = pytest.mark.parametrize(
    ("rule", "settings"), [(rule, one) for rule in GUIDANCE for one in settings_of(rule)]
)


def predictions_for(rule, seed=0, shape=(2, 4, 3, 8, 8)):
    random = torch.Generator().manual_seed(seed)
    return {asked.name: torch.randn(shape, generator=random) for asked in rule.traits}


def guided(rule, predictions, scale, moment=MOMENTS[0], settings=None):
    return rule.function(predictions, Step(scale, moment), **rule.knobs(settings or {}))


@every_rule
def test_a_rule_names_its_evaluations_once_each_and_says_what_the_samplers_own_two_are(rule):
    names = [asked.name for asked in rule.traits]
    assert len(set(names)) == len(names) and all(isinstance(e, Evaluation) for e in rule.traits)
    assert evaluation(rule, "cond").prompted and not evaluation(rule, "uncond").prompted
    with pytest.raises(CraftError, match="no evaluation 'third'"):
        evaluation(rule, "third")


@every_rule
def test_the_evaluations_beyond_the_samplers_own_are_under_the_prompt(rule):
    assert all(asked.prompted for asked in rule.traits if asked.name != "uncond")


@every_rule
def test_the_part_of_the_strength_that_an_evaluation_names_is_a_setting_of_the_rule(rule):
    known = {parameter.name for parameter in rule.parameters}
    assert {asked.fraction for asked in rule.traits} - {""} <= known


@every_setting
@every_moment
@pytest.mark.parametrize("scale", SCALES)
def test_equal_predictions_give_that_prediction_bitwise(rule, settings, scale, moment):
    same = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    predictions = {asked.name: same.clone() for asked in rule.traits}
    assert torch.equal(guided(rule, predictions, scale, moment, settings), same)


@every_rule
@every_moment
def test_at_scale_one_a_rule_gives_the_conditional_prediction_bitwise(rule, moment):
    predictions = predictions_for(rule)
    assert torch.equal(guided(rule, predictions, 1.0, moment), predictions["cond"])


@every_setting
def test_at_scale_one_no_rule_looks_up_the_unconditional_prediction(rule, settings):
    assert "uncond" not in needed(rule, Step(1.0, MOMENTS[0]), rule.knobs(settings))


@every_setting
@every_moment
@pytest.mark.parametrize("scale", SCALES)
def test_a_rule_combines_what_it_is_said_to_need_and_nothing_else(rule, settings, scale, moment):
    predictions, step = predictions_for(rule), Step(scale, moment)
    names = needed(rule, step, rule.knobs(settings))
    few = {name: predictions[name] for name in names}
    made = rule.function(few, step, **rule.knobs(settings))
    assert torch.equal(made, guided(rule, predictions, scale, moment, settings))


@every_setting
@every_moment
@pytest.mark.parametrize("scale", SCALES)
def test_inputs_are_not_written_to(rule, settings, scale, moment):
    predictions = predictions_for(rule)
    before = {name: made.clone() for name, made in predictions.items()}
    guided(rule, predictions, scale, moment, settings)
    assert predictions.keys() == before.keys()
    assert all(torch.equal(predictions[name], made) for name, made in before.items())


@every_setting
@every_moment
@pytest.mark.parametrize("scale", SCALES)
def test_images_in_a_batch_do_not_touch_each_other(rule, settings, scale, moment):
    predictions = predictions_for(rule)
    others = {name: made.clone() for name, made in predictions.items()}
    for made in others.values():
        made[0] = 7.0 * made[0] + 1.0
    both = guided(rule, predictions, scale, moment, settings)
    changed = guided(rule, others, scale, moment, settings)
    assert torch.equal(both[1:], changed[1:])
    second = {name: made[1:] for name, made in predictions.items()}
    assert units(both[1:], guided(rule, second, scale, moment, settings)) <= 64


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


# Which gates the rows of an evaluation get


@every_rule
def test_conditional_rows_get_the_gates_themselves(rule):
    gates = torch.rand(2, 5, 3)
    assert row_gates(gates, evaluation(rule, "cond")) is gates


def test_standard_unconditional_rows_get_the_gates_themselves():
    gates = torch.rand(2, 5, 3)
    assert row_gates(gates, evaluation(GUIDANCE["cfg"], "uncond")) is gates


@pytest.mark.parametrize(("key", "name"), [("acfg", "uncond"), ("role", "backbone")])
def test_rows_without_branches_get_one_view_of_the_backbone_alone(key, name):
    gates = torch.rand(2, 5, 3)
    zeros = row_gates(gates, evaluation(GUIDANCE[key], name))
    assert zeros.shape == (1, 5, 3) and zeros.dtype == gates.dtype and not zeros.any()
    assert gates.all()


def test_rows_of_one_role_get_its_gates_in_every_view_and_none_of_the_others():
    gates, roles = torch.rand(2, 5, 3), ("content", "style", "content")
    content = row_gates(gates, evaluation(GUIDANCE["role"], "content"), roles)
    style = row_gates(gates, evaluation(GUIDANCE["role"], "style"), roles)
    assert torch.equal(content[..., [0, 2]], gates[..., [0, 2]]) and not content[..., 1].any()
    assert torch.equal(content + style, gates)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_rows_of_the_weaker_version_get_that_part_of_the_same_gates(fraction):
    gates, roles, knobs = torch.rand(1, 5, 2), ("content", "style"), {"fraction": fraction}
    rule = GUIDANCE["weak"]
    for name in ("cond", "content", "style"):
        whole = row_gates(gates, evaluation(rule, name), roles, knobs)
        part = row_gates(gates, evaluation(rule, f"weak {name}"), roles, knobs)
        assert torch.equal(part, fraction * whole)


def test_a_sampler_without_guidance_takes_the_conditional_prediction_itself():
    predictions = {"cond": torch.rand(1, 4)}
    assert sampled(predictions, Step(1.0, MOMENTS[0])) is predictions["cond"]
