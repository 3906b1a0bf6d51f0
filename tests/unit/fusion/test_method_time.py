"""Every method on both clocks, in one run and in a run whose steps several samplers share."""

import itertools

import numpy as np
import pytest
import torch

from craft_core.fusion import FUSION
from craft_core.fusion.compose import compose
from craft_core.lora import pair_statistics
from craft_core.schedule.schedule import CLOCKS, Schedule
from craft_core.time import Timeline, model_table
from craft_core.types import Bank, Branch, Factors, Routing

PATHS = [f"blocks.{i}" for i in range(9)]
STEPS = 12
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
LEVELS = np.sqrt(1.0 / np.cumprod(1.0 - BETAS) - 1.0)  # Stable Diffusion's, from the lowest


def karras(low: float, high: float) -> list[float]:
    """Karras et al. 2022, Eq. 5, rho 7."""
    ramp = np.linspace(0.0, 1.0, STEPS)
    return [*((high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7), 0.0]


RUNS = {
    "normal": [*LEVELS[np.linspace(999, 0, STEPS).round().astype(int)], 0.0],
    "karras": karras(LEVELS[0], LEVELS[-1]),
    "denoise": karras(LEVELS[0], LEVELS[500]),
}
SCHEDULES = {
    "none": None,
    **{
        f"{shape}-{clock}": Schedule(shape, {}, 0.1, 0.2, clock)
        for shape, clock in itertools.product(("constant", "cosine", "window"), CLOCKS)
    },
}
SETTINGS = [
    pytest.param(method, settings, id=f"{method.key}-{'-'.join(map(str, settings.values()))}")
    for method in FUSION
    for settings in [
        {},
        *(
            {parameter.name: choice}
            for parameter in method.parameters
            for choice in parameter.knob.choices or ()
        ),
        *([{"every": 2}, {"every": 3, "timing": "released"}] if method.key == "switch" else []),
    ]
]


def branch(name, role, seed):
    random = torch.Generator().manual_seed(seed)
    layers = {
        path: (Factors(torch.randn(2, 6, generator=random), torch.randn(5, 2, generator=random)),)
        for path in PATHS
    }
    return Branch(name, role, layers, 0.7)


BRANCHES = [branch("dog", "content", 0), branch("ink", "style", 1)]
BANK = Bank.of(BRANCHES, PATHS)
ROUTING = Routing((1.0, 1.0), (frozenset(PATHS[:5]), frozenset(PATHS[5:])),
                  pair_statistics(BRANCHES, PATHS))  # fmt: skip


def gates_of(method, settings, schedule=None):
    return compose(
        method.function(BANK, ROUTING, **method.knobs(settings)), BANK, SCHEDULES.get(schedule)
    )


def tables(gates, run, whole=None):
    """At each step of a run, and where a second evaluation of it would be."""
    time = Timeline.of(run, model_table(LEVELS), whole)
    called = [s for one, after in itertools.pairwise(run) for s in (one, (one * after) ** 0.5)]
    return torch.stack([state(gates, time.at(sigma)) for sigma in called])


def state(gates, moment):
    """The gate table, and what the method takes out of updates as a column beside the branches."""
    table = gates.at(moment)
    share = table.new_full((*table.shape[:2], 1), gates.share(moment))
    return torch.cat([table, share], dim=2)


def turns(run, whole=None, clock="model", **settings):
    gates = compose(
        FUSION["switch"].function(BANK, ROUTING, **settings),
        BANK,
        Schedule("constant", clock=clock),
    )
    time = Timeline.of(run, model_table(LEVELS), whole)
    acting = [gates.at(time.at(sigma))[0, 0].argmax() for sigma in run[:-1]]
    return "".join("cs"[index] for index in acting)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("clock", CLOCKS)
def test_switch_counts_steps_whatever_the_schedules_clock(run, clock):
    assert turns(run, clock=clock, every=2) == "ccssccssccss"
    assert turns(run, clock=clock, every=2, timing="released") == "cccssccssccs"


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize(("method", "settings"), SETTINGS)
def test_the_clock_of_a_schedule_moves_the_schedule_and_not_the_method(method, settings, run):
    alone = gates_of(method, settings)
    for clock in CLOCKS:
        constant = gates_of(method, settings, f"constant-{clock}")
        assert torch.equal(tables(constant, run), tables(alone, run))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("method", "settings"), SETTINGS)
def test_gates_are_called_constant_where_time_and_rows_change_nothing(method, settings, schedule):
    gates = gates_of(method, settings, schedule)
    found = tables(gates, RUNS["normal"])
    changes = gates.views > 1 or not torch.equal(found, found[:1].expand_as(found))
    assert changes == (gates.constant is None)
    if gates.constant is not None:
        assert torch.equal(found[0, ..., :-1], gates.constant[None])


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("method", "settings"), SETTINGS)
def test_a_run_in_parts_is_the_whole_run_where_its_sigmas_are_given(
    method, settings, schedule, run
):
    gates = gates_of(method, settings, schedule)
    whole = tables(gates, run)
    assert torch.equal(tables(gates, run, run), whole)
    for cut in (1, 5, 6, STEPS - 1):
        parts = [tables(gates, part, run) for part in (run[: cut + 1], run[cut:])]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("schedule", ["none", "cosine-steps", "cosine-model"])
@pytest.mark.parametrize("method", list(FUSION), ids=FUSION.keys())
def test_without_them_what_counts_steps_begins_anew_and_what_reads_noise_goes_on(method, schedule):
    run, cut = RUNS["karras"], 6
    gates = gates_of(method, {}, schedule)
    whole, second = tables(gates, run), tables(gates, run[cut:])
    alone = tables(gates_of(method, {}), run)
    counts_steps = bool((alone != alone[0]).any())
    begins_anew = counts_steps or schedule == "cosine-steps"
    assert torch.equal(second, whole[2 * cut :]) is not begins_anew
