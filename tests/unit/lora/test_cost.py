"""What an update costs, against multiplications counted by hand and by its tensors."""

from __future__ import annotations

import math

import pytest
import torch
from craft_lora_pack.craft_core.lora.cost import multiplications
from craft_lora_pack.craft_core.lora.formats.lokr import Kronecker
from craft_lora_pack.craft_core.types import Factors

zeros = torch.zeros
KERNELS = pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3), (3, 1, 1)], ids=str)


@KERNELS
def test_low_rank_factors_cost_as_many_as_they_have_numbers(kernel):
    factors = Factors(zeros(4, 10, *kernel), zeros(12, 4))
    assert multiplications(factors) == 4 * 10 * math.prod(kernel) + 12 * 4


@KERNELS
def test_a_kronecker_product_costs_its_second_side_in_every_group_and_the_mixing(kernel):
    """w1 (3, 2), w2 (4, 5): two groups of 5 inputs become two of 4, then three of 4."""
    update = Kronecker(zeros(3, 2), zeros(4, 5, *kernel))
    last = math.prod(kernel)
    assert multiplications(update) == 2 * (4 * 5 * last) + (3 * 2) * 4


def test_the_side_that_then_costs_less_comes_first():
    """w1 (2, 3), w2 (5, 4): three groups of 4 inputs are mixed into two, then each becomes 5. The
    other way round with w1 (3, 2): each of two becomes 5, then they are mixed into three."""
    assert multiplications(Kronecker(zeros(2, 3), zeros(5, 4))) == (2 * 3) * 4 + 2 * (5 * 4)
    assert multiplications(Kronecker(zeros(3, 2), zeros(5, 4))) == 2 * (5 * 4) + (3 * 2) * 5


def test_a_second_side_of_two_factors_costs_both():
    update = Kronecker(zeros(3, 2), zeros(1, 5), zeros(4, 1))
    assert multiplications(update) == 2 * (1 * 5) + (3 * 2) * 1 + 3 * (4 * 1)


def test_neither_the_type_of_the_numbers_nor_the_rows_matter():
    whole = Factors(zeros(4, 10), zeros(12, 4))
    half = Factors(zeros(4, 10).half(), zeros(12, 4).half(), 0.5, rows=(12, 12))
    assert multiplications(half) == multiplications(whole)
