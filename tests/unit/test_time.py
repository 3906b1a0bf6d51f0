"""Both clocks: exact at the steps, log sigma between them, defined everywhere."""

import math
import random

import numpy as np
import pytest
import torch

from craft_core.errors import CraftError
from craft_core.time import Moment, Timeline, model_table, progress, whole_sigmas

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
    now = Timeline.of([middle, 0.5, 0.1, 0.0], table).at(middle)
    assert (now.progress, now.steps, now.model_progress) == (0.0, 3, progress(middle, table))


def test_a_moment_counts_steps_so_that_a_step_index_comes_back():
    for index, sigma in enumerate(FLOW[:-1]):
        now = Timeline.of(FLOW).at(sigma)
        assert now.steps == 6 and round(now.step, 9) == now.step_index == index
        assert now.model_progress is None


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


@pytest.mark.parametrize("steps", range(1, 200))
def test_the_index_of_a_step_survives_the_rounding_of_its_progress(steps):
    """progress * (steps - 1) is a whole number but for rounding, down as well as up."""
    moments = [Moment(i / max(1, steps - 1), steps) for i in range(steps)]
    assert [moment.step_index for moment in moments] == list(range(steps))
    half = [Moment((i + 0.5) / max(1, steps - 1), steps) for i in range(steps - 1)]
    assert [moment.step_index for moment in half] == list(range(steps - 1))


@pytest.mark.parametrize("sigmas", [KARRAS, FLOW, CUT_SHORT])
def test_each_part_of_a_run_has_the_moments_of_the_whole(sigmas):
    table = model_table(torch.linspace(0.02, 15.0, 50))
    whole = Timeline.of(sigmas, table)
    for cut in range(1, len(sigmas) - 1):
        parts = sigmas[: cut + 1], sigmas[cut:]
        found = [Timeline.of(part, table, sigmas).at(s) for part in parts for s in part[:-1]]
        assert found == [whole.at(s) for s in sigmas[:-1]]
        alone = [Timeline.of(part, table).at(part[0]) for part in parts]
        assert [moment.step_index for moment in alone] == [0, 0]
        assert alone[1].model_progress == found[cut].model_progress > 0.0


def test_a_run_that_is_no_part_of_the_whole_is_an_error():
    for whole in (KARRAS[3:], KARRAS[:3]):
        with pytest.raises(CraftError, match="outside the whole_sigmas"):
            Timeline.of(KARRAS, None, whole)
    Timeline.of([*KARRAS[:3], 0.0], None, KARRAS[:4])  # cut short, noise and all
    Timeline.of([sigma * (1 + 1e-6) for sigma in KARRAS], None, KARRAS)


@pytest.mark.parametrize("given", [[], [1.0], [1.0, math.nan, 0.0]])
def test_sigmas_that_are_no_run_are_an_error(given):
    with pytest.raises(CraftError, match="whole_sigmas is"):
        whole_sigmas(given)


def test_the_sigmas_of_a_run_are_taken_as_they_are():
    assert whole_sigmas(FLOW) == tuple(FLOW)
