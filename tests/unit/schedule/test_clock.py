"""The clock: exact at the steps, log sigma between them, defined everywhere."""

import math
import random

import numpy as np
import pytest
import torch

from craft_core.schedule import model_table, moment, progress

KARRAS = [14.6146, 8.3, 4.2, 1.9, 0.75, 0.25, 0.0292, 0.0]
FLOW = [1.0, 0.96, 0.88, 0.7, 0.42, 0.1, 0.0]
CUT_SHORT = [14.6146, 8.3, 4.2, 1.9, 0.75]  # ends with noise left, as KSampler (Advanced) may
DESCENDING = [KARRAS, FLOW, CUT_SHORT, [10.0, 0.0], [3.0, 2.0, 1.0], [5.0, 1e-30, 0.0]]


@pytest.mark.parametrize("sigmas", DESCENDING)
def test_each_step_has_exactly_its_share_of_progress(sigmas):
    steps = len(sigmas) - 1
    for kind in (list, tuple, np.array, lambda s: torch.tensor(s, dtype=torch.float64)):
        found = [progress(sigma, kind(sigmas)) for sigma in sigmas[:-1]]
        assert found == [i / (steps - 1) if steps > 1 else 0.0 for i in range(steps)]


@pytest.mark.parametrize("steps", [2, 3, 7, 20, 50, 999])
def test_steps_are_exact_for_any_number_of_them_in_float32(steps):
    sigmas = torch.exp(torch.linspace(2.7, -3.5, steps)).tolist() + [0.0]
    assert [progress(s, sigmas) for s in sigmas[:-1]] == [i / (steps - 1) for i in range(steps)]


def test_between_two_steps_progress_follows_log_sigma():
    sigmas = [16.0, 4.0, 1.0, 0.25, 0.0]
    assert progress(8.0, sigmas) == pytest.approx(0.5 / 3)
    assert progress(math.sqrt(1.0 * 0.25), sigmas) == pytest.approx(2.5 / 3)
    assert progress(16.0 * 4.0**-0.25, sigmas) == pytest.approx(0.25 / 3)


@pytest.mark.parametrize("sigmas", DESCENDING)
def test_outside_the_steps_progress_stays_at_its_ends(sigmas):
    for above in (sigmas[0] * 1.001, sigmas[0] * 1e6, 1e38, math.inf):
        assert progress(above, sigmas) == 0.0
    if len(sigmas) > 2:
        last, end = sigmas[-2:]
        for below in (last * 0.999, (last + end) / 2, end, 0.0):
            assert progress(below, sigmas) == 1.0


def test_a_single_step_has_progress_zero():
    for sigma in (20.0, 10.0, 5.0, 0.0, math.inf):
        assert progress(sigma, [10.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    "sigmas", [*DESCENDING, [5.0, 5.0, 2.0, 2.0, 0.0], [math.inf, 9.0, 3.0, 0.0]]
)
def test_progress_never_falls_while_the_noise_does(sigmas):
    random.seed(0)
    top = min(sigmas[0], 1e3) * 1.5
    tried = sorted([*sigmas, *(random.uniform(0.0, top) for _ in range(500))], reverse=True)
    found = [progress(sigma, sigmas) for sigma in tried]
    assert found == sorted(found)
    assert all(0.0 <= value <= 1.0 for value in found)


def test_a_step_that_went_through_exp_and_log_in_single_precision_is_still_that_step():
    sigmas = torch.tensor(KARRAS)
    drifted = torch.exp(torch.log(sigmas[:-1])).tolist()
    again = [progress(sigma, sigmas.tolist()) for sigma in drifted]
    assert again == [i / 6 for i in range(7)]


def test_img2img_runs_from_zero_to_one_over_its_own_steps():
    tail = KARRAS[3:]
    assert [progress(s, tail) for s in tail[:-1]] == [0.0, 1 / 3, 2 / 3, 1.0]


def test_the_models_clock_starts_img2img_midway():
    table = model_table(torch.exp(torch.linspace(-3.5, 2.7, 1000)))
    assert table[0] > table[1] and table[-1] == 0.0 and len(table) == 1001
    assert progress(table[0], table) == 0.0 and progress(table[999], table) == 1.0
    assert progress(table[333], table) == 333 / 999
    middle = float(np.sqrt(table[0] * table[999]))
    assert progress(middle, table) == pytest.approx(0.5, abs=1e-6)
    assert moment(middle, [middle, 0.5, 0.1, 0.0], table).progress == progress(middle, table)
    assert moment(middle, [middle, 0.5, 0.1, 0.0], table).steps == 3


def test_a_moment_counts_steps_so_that_a_step_index_comes_back():
    for index, sigma in enumerate(FLOW[:-1]):
        now = moment(sigma, FLOW)
        assert now.steps == 6 and round(now.progress * (now.steps - 1), 9) == index


def test_equal_sigmas_count_as_the_first_of_them():
    sigmas = [5.0, 5.0, 2.0, 2.0, 0.0]
    assert [progress(s, sigmas) for s in (5.0, 3.0, 2.0, 1.0)] == [
        0.0, pytest.approx((1 + math.log(5 / 3) / math.log(5 / 2)) / 3), 2 / 3, 1.0,
    ]  # fmt: skip
    assert progress(3.0, [3.0, 3.0, 3.0]) == 0.0


def test_where_a_restart_meets_a_level_twice_the_first_time_counts():
    sigmas = [10.0, 5.0, 2.0, 1.0, 5.0, 2.0, 0.5, 0.0]
    last = 6
    assert [progress(s, sigmas) for s in (10.0, 5.0, 2.0, 1.0, 0.5)] == [
        0.0, 1 / last, 2 / last, 3 / last, 1.0,
    ]  # fmt: skip
    assert 1 / last < progress(3.0, sigmas) < 2 / last
    assert 5 / last < progress(0.75, sigmas) < 1.0
    assert progress(0.1, sigmas) == 1.0
    assert progress(0.1, [10.0, 1.0, 5.0, 0.0]) == 1.0  # only the way to the end meets it


def test_a_schedule_that_runs_upwards_works_the_same_way():
    sigmas = [0.0, 0.5, 2.0, 8.0, 14.6]
    assert [progress(s, sigmas) for s in sigmas[:-1]] == [0.0, 1 / 3, 2 / 3, 1.0]
    assert progress(4.0, sigmas) == pytest.approx(2.5 / 3)
    assert progress(0.25, sigmas) == pytest.approx(0.5 / 3)  # from 0 its log says nothing
    assert progress(10.0, sigmas) == progress(20.0, sigmas) == 1.0


def test_a_zero_or_infinite_step_is_met_too():
    assert progress(0.0, [4.0, 1.0, 0.0, 0.0]) == 1.0
    assert progress(0.5, [4.0, 1.0, 0.0, 0.0]) == 0.75
    sigmas = [math.inf, 4.0, 1.0, 0.0]
    assert [progress(s, sigmas) for s in (math.inf, 1e300, 4.0, 2.0)] == [0.0, 0.5, 0.5, 0.75]


def test_a_broken_sigma_is_not_answered():
    for sigma, sigmas in ((math.nan, KARRAS), (1.0, [1.0, math.nan, 0.0]), (1.0, [1.0]), (1.0, [])):
        with pytest.raises(AssertionError):
            progress(sigma, sigmas)
