"""Numbers of an update and of a pair against dense numpy and scipy-free textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from raw_lora import noise

from craft_core.merging import compare as module
from craft_core.merging.compare import compare, measure
from craft_core.types import Factors

SHAPES = {"linear": (40, 30), "conv": (12, 5, 3, 3), "wide": (6, 90)}


def update(shape, rank, seed, scale=0.5):
    return Factors(noise(rank, *shape[1:], seed=seed), noise(shape[0], rank, seed=seed + 3), scale)


def dense(factors) -> np.ndarray:
    return factors.scale * factors.up.double().numpy() @ factors.down.flatten(1).double().numpy()


def cosines(one, other) -> np.ndarray:
    """Of the principal angles between column spaces, by projectors: eigenvalues of P Q P."""
    left, right = (m @ np.linalg.pinv(m) for m in (one, other))
    values = np.sort(np.linalg.eigvalsh(left @ right @ left))[::-1]
    rank = min(np.linalg.matrix_rank(one), np.linalg.matrix_rank(other))
    return np.sqrt(np.clip(values[:rank], 0, 1))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_update_is_measured_exactly(shape):
    one = update(shape, 3, 0)
    found, matrix = measure((one,), one.outputs), np.abs(dense(one))
    assert (found.rank, found.alpha, found.entries) == (3, 1.5, matrix.size)
    assert found.size == pytest.approx(np.linalg.norm(matrix), rel=1e-6)
    assert found.top == pytest.approx(np.sort(matrix.flatten())[-9:].sum(), rel=1e-5)
    assert found.total == pytest.approx(matrix.sum(), rel=1e-5)


@pytest.mark.parametrize("block", [1, 70, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_pair_is_compared_exactly(shape, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    one, other = update(shape, 3, 0), update(shape, 2, 50, -1.5)
    found, a, b = compare(one, other), dense(one), dense(other)
    assert found.inner == pytest.approx((a * b).sum(), rel=1e-6)
    conflict, smaller = a * b < 0, np.minimum(np.abs(a), np.abs(b))
    assert (found.conflicts, found.both) == (conflict.sum(), a.size)
    assert found.lost == pytest.approx(smaller[conflict].sum(), rel=1e-5)
    assert found.least == pytest.approx(smaller.sum(), rel=1e-5)
    up, down = cosines(a, b), cosines(a.T, b.T)
    assert found.up == pytest.approx((up**2).mean(), abs=1e-6)
    assert found.down == pytest.approx((down**2).mean(), abs=1e-6)
    assert found.up_cosine == pytest.approx(up[0], abs=1e-6)
    assert found.down_cosine == pytest.approx(down[0], abs=1e-6)


def test_an_update_and_itself_or_its_opposite():
    one = update((9, 7), 2, 0)
    same, opposite = compare(one, one), compare(one, Factors(one.down, one.up, -one.scale))
    square = np.linalg.norm(dense(one)) ** 2
    assert (same.inner, opposite.inner) == (pytest.approx(square), pytest.approx(-square))
    for found in (same, opposite):
        assert found.up == pytest.approx(1.0) and found.down == pytest.approx(1.0)
    assert same.conflicts == 0 and opposite.conflicts == opposite.both == 63
    assert opposite.lost == opposite.least


def test_disjoint_rows_and_columns_have_nothing_in_common():
    up, down = torch.eye(6)[:, :2], torch.eye(8)[:2]
    found = compare(Factors(down, up), Factors(down.roll(4, 1), up.roll(3, 0)))
    assert (found.inner, found.up, found.down, found.both, found.least) == (0, 0, 0, 0, 0)


def test_an_untrained_update_spans_nothing():
    found = compare(update((6, 5), 2, 0), Factors(noise(2, 5), torch.zeros(6, 2)))
    assert (found.inner, found.up, found.both) == (0.0, 0.0, 0)


def test_repeated_directions_count_once():
    """Rank 2 by its factors, rank 1 as a matrix: its span must not hold an arbitrary direction."""
    one = Factors(noise(1, 5).expand(2, 5), noise(6, 1, seed=2).expand(6, 2).contiguous())
    other = update((6, 5), 1, 30)
    up = cosines(dense(one), dense(other))
    assert compare(one, other).up == pytest.approx((up**2).mean(), abs=1e-6)
