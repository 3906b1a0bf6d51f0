"""Each merge against its paper: cases by hand, oracles in plain loops, limits, and the contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from raw_lora import noise

from craft_core.merging import MERGES, Updates
from craft_core.merging.ties import sample_bracket, threshold
from craft_core.types import Factors

SHAPES = {"linear": (6, 5), "conv": (6, 3, 2, 2), "wide": (4, 9)}
ALL = [method.key for method in MERGES]


def update(shape, rank, seed, scale=0.7) -> Factors:
    return Factors(noise(rank, *shape[1:], seed=seed), noise(shape[0], rank, seed=seed + 7), scale)


def updates(shape=(6, 5), strengths=(1.0, 0.6, -0.8), path="a.b") -> Updates:
    ranks = (2, 1, 3)[: len(strengths)]
    parts = [update(shape, rank, 10 * i) for i, rank in enumerate(ranks)]
    return Updates.of(path, parts, strengths)


def dense(result) -> np.ndarray:
    tensor = result.delta().flatten(1) if isinstance(result, Factors) else result
    return tensor.double().numpy()


def run(key, given, **knobs) -> np.ndarray:
    method = MERGES[key]
    return dense(method.function(given, **method.knobs(knobs)))


def plain_sum(given) -> np.ndarray:
    return sum(one.scale * one.up.double().numpy() @ one.down.flatten(1).double().numpy()
               for one in given.factors)  # fmt: skip


def near(left, right, tolerance=1e-5):
    np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


def exactly(rows) -> Factors:
    """Factors whose dW is the matrix."""
    matrix = torch.tensor(rows)
    return Factors(matrix, torch.eye(len(rows)))


def ties_by_loops(matrices, density, combine):
    """Algorithm 1, an entry at a time."""
    trimmed = []
    for matrix in matrices:
        order = sorted(np.abs(matrix).flatten(), reverse=True)
        keep = math.ceil(density * matrix.size)
        threshold = order[keep - 1] if keep else math.inf
        trimmed.append(np.where(np.abs(matrix) >= threshold, matrix, 0.0))
    merged = np.zeros_like(trimmed[0])
    for place in np.ndindex(merged.shape):
        entries = [one[place] for one in trimmed]
        agreeing = [e for e in entries if e != 0 and np.sign(e) == np.sign(sum(entries))]
        if agreeing:
            merged[place] = sum(agreeing) / (len(agreeing) if combine == "mean" else 1)
    return merged


def test_ties_worked_by_hand():
    a = exactly([[4.0, -1.0, 3.0, 0.5]])
    b = exactly([[2.0, 5.0, -6.0, 0.1]])
    given = Updates.of("l", [a, b], [1.0, 1.0])
    # half of each is kept: a 4, 3 and b 5, -6; the third entry elects -: 3 - 6 < 0
    near(run("ties", given, density=0.5), [[4.0, 5.0, -6.0, 0.0]])
    near(run("ties", given, density=1.0), [[3.0, 5.0, -6.0, 0.3]])
    near(run("ties", given, density=1.0, combine="sum"), [[6.0, 5.0, -6.0, 0.6]])
    near(run("ties", given, density=0.5, scaling=2.0), [[8.0, 10.0, -12.0, 0.0]])


@pytest.mark.parametrize("density", [0.0, 0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ties_is_the_papers_algorithm(density, combine, shape):
    given = updates(shape)
    matrices = [dense(one) for one in given.factors]
    expected = ties_by_loops(matrices, density, combine)
    near(run("ties", given, density=density, combine=combine), expected)


@pytest.mark.parametrize("density", [0.07, 0.14, 0.28, 0.29, 0.55, 0.56, 0.57, 0.58])
def test_a_share_of_a_hundred_entries_is_its_percentage(density):
    """0.07 * 100 is 7.000000000000001 in floating point."""
    entries = torch.arange(1.0, 101.0).reshape(10, 10)
    assert int((entries >= threshold(entries, density)).sum()) == round(100 * density)


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("of", ["noise", "ties", "zeros", "ordered"])
def test_the_threshold_of_a_large_update_is_that_of_all_entries_sorted(of, density):
    """It is looked for between two magnitudes of a sample, which may mislead (ordered)."""
    entries = noise(600, 700, seed=1)
    entries = {
        "noise": entries,
        "ties": entries.round(decimals=1),
        "zeros": torch.where(entries > 1.0, entries, 0.0),
        "ordered": entries.flatten().sort().values.reshape(600, 700),
    }[of]
    sizes = entries.abs().flatten().sort().values
    kept = math.ceil(density * entries.numel() - 1e-6)
    assert threshold(entries, density) == sizes[-kept].item()


@pytest.mark.parametrize("shape", [(640, 640), (1280, 1280), (640, 2560), (2560, 320)])
def test_a_sample_of_a_low_rank_update_does_not_mislead(shape):
    """Its columns differ in size; a step of 100 takes but 64 of 1280."""
    for seed in range(0, 12, 3):
        entries = noise(shape[0], 2, seed=seed) @ noise(2, shape[1], seed=seed + 1)
        keep = entries.numel() // 5
        middle, half = sample_bracket(entries.flatten(), keep, shape[1])
        assert abs(threshold(entries, 0.2) - middle) <= half


def test_entries_that_cancel_exactly_have_no_sign():
    given = Updates.of("l", [exactly([[1.0, 2.0]]), exactly([[-1.0, 2.0]])], [1.0, 1.0])
    near(run("ties", given, density=1.0), [[0.0, 2.0]])


def test_ties_of_updates_without_conflict_is_their_sum_or_mean():
    given = Updates.of("l", [exactly([[1.0, -2.0]]), exactly([[3.0, -4.0]])], [1.0, 1.0])
    near(run("ties", given, density=1.0, combine="sum"), plain_sum(given))
    near(run("ties", given, density=1.0, combine="mean"), plain_sum(given) / 2)


def test_strengths_come_before_the_election():
    both = [exactly([[1.0]]), exactly([[-2.0]])]
    near(run("ties", Updates.of("l", both, [1.0, 1.0]), density=1.0), [[-2.0]])
    near(run("ties", Updates.of("l", both, [3.0, 1.0]), density=1.0), [[3.0]])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_dare_without_a_drop_is_the_direct_sum(shape):
    near(run("dare", updates(shape), drop_rate=0.0), plain_sum(updates(shape)))


def test_dare_drops_the_share_it_is_told_and_rescales_the_rest():
    given = Updates.of("l", [exactly(torch.ones(100, 100).tolist())], [1.0])
    result = run("dare", given, drop_rate=0.75, seed=3)
    assert set(np.unique(result)) == {0.0, 4.0}
    assert abs((result == 0).mean() - 0.75) < 0.02  # 4.6 standard deviations


def test_dare_keeps_every_entrys_expectation():
    given = updates((3, 2))
    runs = [run("dare", given, drop_rate=0.5, seed=seed) for seed in range(1500)]
    deviation = np.std(runs, axis=0) / len(runs) ** 0.5
    assert (np.abs(np.mean(runs, axis=0) - plain_sum(given)) < 5 * deviation + 1e-9).all()


def test_dare_then_ties_elects_among_what_is_left():
    given = updates()
    near(run("dare", given, drop_rate=0.0, then="ties"),
         ties_by_loops([dense(one) for one in given.factors], 1.0, "mean"))  # fmt: skip


def test_branches_and_layers_drop_different_entries():
    ones = exactly(torch.ones(20, 20).tolist())
    one = run("dare", Updates.of("a", [ones], [1.0]))
    assert (one != run("dare", Updates.of("b", [ones], [1.0]))).any()
    two = run("dare", Updates.of("a", [ones, ones], [1.0, 1.0]))
    assert set(np.unique(two)) == {0.0, 2.0, 4.0}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_svd_at_the_sum_of_the_ranks_is_the_direct_sum(shape):
    near(run("svd", updates(shape)), plain_sum(updates(shape)))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("density", [0.2, 0.6, 1.0])
def test_knots_is_the_svd_of_the_updates_side_by_side(shape, combine, density):
    """Dense numpy SVD; the sign of a direction, which is free, cancels in the result."""
    given = updates(shape)
    matrices = [dense(one) for one in given.factors]
    left, values, joint = np.linalg.svd(np.concatenate(matrices, axis=1), full_matrices=False)
    rank = int((values > 1e-6 * values[0]).sum())
    left, scale, joint = left[:, :rank], np.diag(values[:rank]), joint[:rank]
    expected = {
        "paper": scale @ ties_by_loops(np.split(joint, 3, axis=1), density, combine),
        "released": ties_by_loops(np.split(scale @ joint, 3, axis=1), density, combine),
    }
    for coordinates, merged in expected.items():
        knobs = {"density": density, "combine": combine, "coordinates": coordinates}
        near(run("knots", given, **knobs), left @ merged, 1e-4)


@pytest.mark.parametrize("coordinates", ["paper", "released"])
@pytest.mark.parametrize("density", [0.3, 0.6])
def test_knots_has_no_directions_that_nothing_points_to(coordinates, density):
    """Of two LoRAs with one column space, of ranks 2 and 3 with a dependent factor, 2 directions
    are left; empty ones would take part in the trim."""
    up, mixed = noise(6, 2).mul(8).round(), noise(2, 3, seed=3).mul(8).round()  # exact products
    parts = [Factors(noise(2, 5, seed=1), up), Factors(noise(3, 5, seed=2), up @ mixed)]
    given = Updates.of("l", parts, [1.0, 0.5])
    knobs = {"density": density, "coordinates": coordinates}
    result = MERGES["knots"].function(given, **MERGES["knots"].knobs(knobs))
    assert result.rank == 2
    matrices = [dense(one) for one in given.factors]
    left, values, joint = np.linalg.svd(np.concatenate(matrices, axis=1), full_matrices=False)
    left, scale, joint = left[:, :2], np.diag(values[:2]), joint[:2]
    parts = np.split(joint if coordinates == "paper" else scale @ joint, 2, axis=1)
    merged = ties_by_loops(parts, density, "mean")
    near(dense(result), left @ (scale @ merged if coordinates == "paper" else merged), 1e-4)


def test_plain_knots_is_the_mean_or_the_sum():
    given = updates()
    near(run("knots", given, merge="plain", combine="sum"), plain_sum(given))
    near(run("knots", given, merge="plain", combine="mean"), plain_sum(given) / 3)


@pytest.mark.parametrize(
    ("key", "knobs"),
    [("svd", {}), ("ties", {"density": 1.0}), ("dare", {"drop_rate": 0.0}),
     ("knots", {"density": 1.0}), ("knots", {"merge": "plain"})],
)  # fmt: skip
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_one_branch_alone_is_that_branch(key, knobs, shape):
    given = updates(shape, strengths=(0.6,))
    near(run(key, given, **knobs), plain_sum(given))


def sweep():
    """Every method at its defaults, and with each knob at both ends or each choice."""
    for method in MERGES:
        yield pytest.param(method.key, {}, id=method.key)
        for parameter in method.parameters:
            knob = parameter.knob
            values = knob.choices or (parameter.type(knob.minimum), parameter.type(knob.maximum))
            for value in values:
                name = f"{method.key}-{parameter.name}-{value}"
                yield pytest.param(method.key, {parameter.name: value}, id=name)


everywhere = pytest.mark.parametrize(("key", "knobs"), list(sweep()))


@everywhere
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_result_is_finite_and_covers_the_layer(key, knobs, shape):
    method = MERGES[key]
    result = method.function(updates(shape), **method.knobs(knobs))
    assert isinstance(result, Factors) is method.traits.exact
    if isinstance(result, Factors):
        assert result.down.shape[1:] == shape[1:] and result.rows is None
    assert dense(result).shape == (shape[0], math.prod(shape[1:]))
    assert np.isfinite(dense(result)).all()


@everywhere
def test_zeros_stay_zero(key, knobs):
    nothing = [Factors(torch.zeros(2, 5), noise(6, 2)), Factors(noise(1, 5), torch.zeros(6, 1))]
    assert not run(key, Updates.of("l", nothing, [1.0, 0.5]), **knobs).any()


@everywhere
def test_the_same_twice_is_the_same_bytes_and_nothing_given_is_written_to(key, knobs):
    given = updates()
    before = [(one.down.clone(), one.up.clone()) for one in given.factors]
    first, second = run(key, given, **knobs), run(key, given, **knobs)
    assert first.tobytes() == second.tobytes()
    for one, (down, up) in zip(given.factors, before, strict=True):
        assert torch.equal(one.down, down) and torch.equal(one.up, up)


@everywhere
def test_a_branch_of_strength_zero_is_not_there(key, knobs):
    with_zero = updates(strengths=(1.0, 0.5, 0.0))
    near(run(key, with_zero, **knobs), run(key, updates(strengths=(1.0, 0.5)), **knobs))


@pytest.mark.parametrize("key", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_merged_in_full_precision(key, dtype):
    half = [Factors(noise(2, 5, seed=i, dtype=dtype), noise(6, 2, seed=i + 9, dtype=dtype), 0.5)
            for i in range(2)]  # fmt: skip
    full = [Factors(one.down.float(), one.up.float(), one.scale) for one in half]
    one, other = (run(key, Updates.of("l", given, [1.0, 0.7])) for given in (half, full))
    near(one, other)
