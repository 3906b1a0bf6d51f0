"""Statistics of an update against the update itself."""

from dataclasses import replace

import pytest
import torch
from raw_lora import noise

from craft_core.errors import CraftError
from craft_core.lora import alone_totals, energy, magnitude, pair_energies, top_k_sum
from craft_core.types import Branch, Factors

CASES = {
    "linear": Factors(noise(3, 7), noise(5, 3, seed=1), -0.3),
    "conv": Factors(noise(3, 4, 3, 3), noise(5, 3, seed=1), 2.0),
    "half": Factors(noise(2, 7, dtype=torch.float16), noise(5, 2, dtype=torch.float16), 0.5),
    "zero": Factors(torch.zeros(2, 7), noise(5, 2), 1.0),
    "cancelling": Factors(torch.cat([noise(1, 7)] * 2), torch.tensor([[1.0, -1.0]] * 5), 1.0),
}


@pytest.mark.parametrize("factors", CASES.values(), ids=CASES)
def test_energy_is_the_frobenius_norm_of_the_update(factors):
    assert energy(factors) == pytest.approx(factors.delta().double().norm().item(), abs=1e-6)


@pytest.mark.parametrize("factors", CASES.values(), ids=CASES)
@pytest.mark.parametrize("k", [0, 1, 4, 10**6])
def test_top_k_is_the_sum_of_the_largest_entries(factors, k):
    expected = sum(sorted(factors.delta().abs().double().flatten().tolist(), reverse=True)[:k])
    assert top_k_sum(factors, k) == pytest.approx(expected, abs=1e-6)
    assert energy(factors, top_k=k) == top_k_sum(factors, k)


def test_a_layers_slices_are_measured_together():
    q = Factors(noise(2, 4), noise(3, 2), 1.0, rows=(0, 3))
    v = Factors(noise(2, 4, seed=3), noise(3, 2, seed=4), 0.5, rows=(6, 3))
    assert energy((q, v)) == pytest.approx((energy(q) ** 2 + energy(v) ** 2) ** 0.5)
    assert top_k_sum((q, v), 10**6) == pytest.approx(top_k_sum(q, 99) + top_k_sum(v, 99))


@pytest.mark.parametrize("shape", [(7, 5), (64, 64), (640, 128), (1, 64), (129, 65), (300, 1000)])
@pytest.mark.parametrize("k", [1, 3, 64, 10_000])
def test_the_shortcut_finds_the_same_largest_entries_as_sorting(shape, k):
    """Spread entries, many equal ones, and all large ones together; more than one block of rows."""
    out, n = shape
    random = torch.Generator().manual_seed(19)
    steps = torch.arange(out, dtype=torch.float32)[:, None]
    for down, up in (
        (torch.randn(4, n, generator=random), torch.randn(out, 4, generator=random)),
        (torch.ones(1, n), torch.randint(-2, 3, (out, 1), generator=random).float()),
        (torch.ones(1, n), steps - out // 2),
    ):
        one = Factors(down, up, 0.5)
        entries = one.delta().abs().double().flatten().sort(descending=True).values
        found = magnitude(one, k)
        assert found.top == pytest.approx(float(entries[:k].sum()), rel=1e-6)
        assert found.total == pytest.approx(float(entries.sum()), rel=1e-5)


def test_totals_of_the_layers_that_one_role_alone_adapts():
    """Slices are summed together, and branches of a role apart; shared layers do not count."""
    q, v = Factors(noise(2, 4), noise(3, 2), rows=(0, 3)), Factors(noise(2, 4), noise(3, 2), 0.5)
    conv, shared = CASES["conv"], CASES["linear"]
    content = Branch("c", "content", {"a": (q, v), "b": (conv,), "s": (shared,)})
    second = Branch("d", "content", {"b": (conv,)}, strength=0.1)
    style = Branch("s", "style", {"s": (shared,), "e": (shared,)})

    def total(factors):
        return magnitude(factors, 0).total

    found = alone_totals([content, second, style])
    assert found[0] == pytest.approx(total((q, v)) + 2 * total(conv), rel=1e-6)
    assert found[1] == pytest.approx(total(shared), rel=1e-6)
    assert pair_energies([content, second, style], "abse").alone() == found
    assert alone_totals([content]) == pytest.approx((found[0] + total(shared) - total(conv), 0.0))
    broken = replace(style, layers={"e": (replace(shared, scale=float("nan")),)})
    with pytest.raises(CraftError, match="not finite"):
        alone_totals([content, broken])
