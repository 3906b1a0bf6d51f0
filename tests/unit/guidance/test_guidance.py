"""Guidance: the two ways of writing it agree; which gates each row gets."""

import pytest
import torch
from rounding import units

from craft_core.guidance import combine, guidance_scale_of, omega_of, row_gates


def pair(seed=0, shape=(2, 4, 3, 8, 8)):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random), torch.randn(shape, generator=random)


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 1.5, 7.5, 30.0])
def test_guidance_is_the_papers_formula_with_omega_one_less(guidance_scale):
    cond, uncond = (t.double() for t in pair())
    omega = omega_of(guidance_scale)
    paper = (1.0 + omega) * cond - omega * uncond
    torch.testing.assert_close(combine(cond, uncond, guidance_scale), paper)
    assert guidance_scale_of(omega) == guidance_scale


def test_scale_zero_is_the_unconditional_prediction_and_one_the_conditional():
    cond, uncond = pair()
    assert torch.equal(combine(cond, uncond, 0.0), uncond)
    assert units(combine(cond, uncond, 1.0), cond) <= 4


def test_equal_predictions_stay_bitwise_whatever_the_scale():
    cond, _ = pair()
    assert torch.equal(combine(cond, cond.clone(), 7.5), cond)


def test_images_in_a_batch_do_not_touch_each_other_and_inputs_are_not_written_to():
    cond, uncond = pair()
    before = cond.clone(), uncond.clone()
    both = combine(cond, uncond, 7.5)
    assert torch.equal(both[1:], combine(cond[1:], uncond[1:], 7.5))
    assert torch.equal(cond, before[0]) and torch.equal(uncond, before[1])


def test_conditional_rows_get_the_gates_themselves():
    gates = torch.rand(2, 5, 3)
    for asymmetric in (True, False):
        assert row_gates(gates, "cond", asymmetric) is gates
    assert row_gates(gates, "uncond", asymmetric=False) is gates


def test_asymmetric_unconditional_rows_get_one_view_of_the_backbone_alone():
    gates = torch.rand(2, 5, 3)
    zeros = row_gates(gates, "uncond", asymmetric=True)
    assert zeros.shape == (1, 5, 3) and zeros.dtype == gates.dtype and not zeros.any()
    assert gates.all()
