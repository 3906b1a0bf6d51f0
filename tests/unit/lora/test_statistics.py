"""Statistics of an update against the update itself."""

from dataclasses import replace

import pytest
import torch
from raw_lora import noise

from craft_core.errors import CraftError
from craft_core.fusion import FUSION
from craft_core.lora import STATISTICS, Meter, frobenius_norm, magnitude, pair_statistics
from craft_core.lora.statistics import entries
from craft_core.types import Branch, Factors

CASES = {
    "linear": Factors(noise(3, 7), noise(5, 3, seed=1), -0.3),
    "conv": Factors(noise(3, 4, 3, 3), noise(5, 3, seed=1), 2.0),
    "half": Factors(noise(2, 7, dtype=torch.float16), noise(5, 2, dtype=torch.float16), 0.5),
    "zero": Factors(torch.zeros(2, 7), noise(5, 2), 1.0),
    "cancelling": Factors(torch.cat([noise(1, 7)] * 2), torch.tensor([[1.0, -1.0]] * 5), 1.0),
}


def number(statistic, factors, k=1):
    return Meter("one", {"a": factors}).number(statistic, "a", k)


@pytest.mark.parametrize("factors", CASES.values(), ids=CASES)
def test_the_frobenius_norm_and_its_square_are_the_updates(factors):
    expected = factors.delta().double().norm().item()
    assert frobenius_norm(factors) == pytest.approx(expected, abs=1e-6)
    assert number("squared_norm", (factors,)) == pytest.approx(expected**2, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("factors", CASES.values(), ids=CASES)
@pytest.mark.parametrize("k", [0, 1, 4, 10**6])
def test_top_k_is_the_sum_of_the_largest_entries(factors, k):
    expected = sum(sorted(factors.delta().abs().double().flatten().tolist(), reverse=True)[:k])
    assert number("top_k", (factors,), k) == pytest.approx(expected, abs=1e-6)


def test_a_layers_slices_are_measured_together():
    q = Factors(noise(2, 4), noise(3, 2), 1.0, rows=(0, 3))
    v = Factors(noise(2, 4, seed=3), noise(3, 2, seed=4), 0.5, rows=(6, 3))
    for name in STATISTICS:
        apart = [number(name, (one,), 10**6) for one in (q, v)]
        assert number(name, (q, v), 10**6) == pytest.approx(sum(apart))


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


def spectrum(out, n, rank, power, kind="plain"):
    """Factors whose singular values fall as 1 / place^power, mixed among the ranks."""
    random = torch.Generator().manual_seed(out + n + rank)
    values = torch.arange(1.0, rank + 1) ** -power
    turn = torch.linalg.qr(torch.randn(rank, rank, generator=random)).Q
    up = (torch.randn(out, rank, generator=random) * values) @ turn
    down = turn.T @ torch.randn(rank, n, generator=random)
    if kind == "sparse rows":
        up[torch.rand(out, generator=random) < 0.9] = 0.0
    if kind == "loud columns":
        down *= torch.randn(n, generator=random).exp()
    if kind == "ties":
        up, down = up.mul(4).round(), down.round()
    if kind == "lost ranks":
        up[:, 1:] = 0.0
    if kind == "one entry":
        up, down = up * 1e-6, down * 1e-6
        up[7, 3], down[3, 5] = 1e3, 1e3
    return Factors(down, up, -0.5)


@pytest.mark.parametrize("shape", [(1024, 1024), (600, 2051)])
@pytest.mark.parametrize(
    ("power", "kind"),
    [(0.0, "plain"), (0.5, "plain"), (1.0, "plain"), (2.0, "plain"), (1.0, "sparse rows"),
     (1.0, "loud columns"), (1.0, "ties"), (1.0, "lost ranks"), (1.0, "one entry"),
     (60.0, "plain")],
)  # fmt: skip
def test_skipping_what_cannot_be_among_the_largest_changes_no_sum(shape, power, kind):
    """Also where the sum of the largest comes with the sum of all, as nothing could be skipped."""
    one = spectrum(*shape, 16, power, kind)
    sizes = one.delta().abs().double().flatten().sort(descending=True).values
    totals = {}
    for k in (0, 1, 64, 4096):
        top, totals[k] = entries.top_sum(one, k)
        assert top == pytest.approx(float(sizes[:k].sum()), rel=1e-6)
    found = [total for total in totals.values() if total is not None]
    assert found == pytest.approx([float(sizes.sum())] * len(found), rel=1e-5)
    if (power, kind) in {(2.0, "plain"), (1.0, "sparse rows")}:
        assert totals[64] is None  # it did skip
    if power == 0.0:
        assert totals[4096] is not None


@pytest.mark.parametrize("side", ["up", "down"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_found_where_entries_are_skipped(side, value):
    one = spectrum(1024, 1024, 16, 2.0)
    getattr(one, side)[11, 13] = value
    with pytest.raises(CraftError, match="not finite"):
        number("top_k", (one,), 64)


def test_sums_found_on_the_way_are_not_measured_again():
    """All entries: the largest are found in the same pass, for any K, and the other way about where
    nothing was skipped; their sum is that of a LoRA alone, whatever K it was found with."""
    meter = Meter("one", {"a": (CASES["linear"],)})
    meter.number("abs_sum", "a", 4)
    assert set(meter.known) == {("abs_sum", "a", 0), ("top_k", "a", 4)}
    again = replace(meter, layers={})
    assert again.number("top_k", "a", 4) <= again.number("abs_sum", "a", 9)


def test_totals_of_the_layers_that_one_role_alone_adapts():
    """Slices are summed together, and branches of a role apart; shared layers do not count."""
    q, v = Factors(noise(2, 4), noise(3, 2), rows=(0, 3)), Factors(noise(2, 4), noise(3, 2), 0.5)
    conv, shared = CASES["conv"], CASES["linear"]
    content = Branch("c", "content", {"a": (q, v), "b": (conv,), "s": (shared,)})
    second = Branch("d", "content", {"b": (conv,)}, strength=0.1)
    style = Branch("s", "style", {"s": (shared,), "e": (shared,)})

    def total(factors):
        return magnitude(factors, 0).total

    found = pair_statistics([content, second, style], "abse").alone("abs_sum")
    assert found[0] == pytest.approx(total((q, v)) + 2 * total(conv), rel=1e-6)
    assert found[1] == pytest.approx(total(shared), rel=1e-6)
    one = pair_statistics([content], "abs").alone("abs_sum")
    assert one == pytest.approx((found[0] + total(shared) - total(conv), 0.0))
    broken = replace(style, layers={"e": (replace(shared, scale=float("nan")),)})
    with pytest.raises(CraftError, match="not finite"):
        pair_statistics([content, broken], "abe").alone("abs_sum")


def pair():
    content = Branch("c", "content", {"a": (CASES["linear"],), "b": (CASES["linear"],)})
    style = Branch("s", "style", {"b": (CASES["half"],), "a": (CASES["half"],)})
    return [content, style]


def test_a_layer_is_measured_when_it_is_looked_at_and_just_once():
    meters = [Meter(one.name, one.layers) for one in pair()]
    found = pair_statistics(pair(), "ab", meters)
    shared = found.shared("top_k")
    assert list(shared) == ["a", "b"] and not any(one.known for one in meters)
    first = shared["b"]
    assert [{path for _, path, _ in one.known} for one in meters] == [{"b"}, {"b"}]
    empty = [replace(one, layers={}) for one in meters]  # nothing is left that could be measured
    again = pair_statistics(pair(), "ab", empty)
    assert again.shared("top_k")["b"] == first
    assert again.shared("abs_sum")["b"] == found.shared("abs_sum")["b"]  # found in the same pass


def test_whoever_asks_for_squared_norms_does_not_pay_for_a_pass_over_the_entries(monkeypatch):
    monkeypatch.setattr("craft_core.lora.statistics.entries.magnitude", None)
    squares = pair_statistics(pair(), "ab").shared("squared_norm")
    expected = [
        one.delta().double().square().sum().item() for one in (CASES["linear"], CASES["half"])
    ]
    assert squares["a"] == pytest.approx(expected, rel=1e-5)


def test_every_number_grows_with_the_scale_of_an_update_and_is_zero_for_zeros():
    """By its first power, squared norms by their second: what a ratio of sums takes out."""
    one = CASES["linear"]
    for name in STATISTICS:
        power = 2 if name == "squared_norm" else 1
        larger = number(name, (replace(one, scale=3 * one.scale),), 4)
        assert larger == pytest.approx(3**power * number(name, (one,), 4))
        assert number(name, (CASES["zero"],), 4) == 0.0


def test_methods_declare_statistics_that_there_are():
    assert {name for method in FUSION for name in method.traits.statistics} <= set(STATISTICS)
