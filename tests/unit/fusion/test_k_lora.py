"""K-LoRA by hand, against loops over dense matrices, and in its limits."""

from dataclasses import replace

import pytest
import torch

from craft_core.fusion import FUSION
from craft_core.lora import pair_statistics
from craft_core.types import Bank, Branch, Factors, Moment, Routing, Statistics

STEPS = 10
MOMENTS = [Moment(i / (STEPS - 1), STEPS) for i in range(STEPS)]
PATHS = [f"layer.{i}" for i in range(8)]


def branch(role, seed=0, rank=3, paths=PATHS, size=1.0):
    random = torch.Generator().manual_seed(seed)
    made = {}
    for path in paths:
        down = torch.randn(rank, 9, generator=random) * (0.5 + torch.rand((), generator=random))
        made[path] = (Factors(down * size, torch.randn(7, rank, generator=random), 0.5),)
    return Branch(f"{role}-{seed}", role, made)


def given(top, total):
    """Statistics written down instead of measured."""
    return Statistics({"top_k": top, "abs_sum": total}.__getitem__)


def takes_content(branches, statistics=None, moments=MOMENTS, **knobs):
    """[moment][layer]: whether content acts there; checks that exactly one role does."""
    bank = Bank.of(branches, PATHS)
    statistics = statistics or pair_statistics(branches, PATHS)
    routing = Routing((1.0,) * len(branches), (frozenset(PATHS),) * len(branches), statistics)
    gates = FUSION["k_lora"].function(bank, routing, **FUSION["k_lora"].knobs(knobs))
    answers = []
    for moment in moments:
        (table,) = gates.at(moment)
        roles = [b.role == "content" for b in branches]
        content = table[:, roles].any(dim=1)
        style = table[:, [not one for one in roles]].any(dim=1)
        assert not (content & style).any()
        answers.append(content.tolist())
    return answers


def by_loops(content, style, pattern="s", gamma="shared", alpha=1.5, beta=0.5, beta_star=1.3):
    """Algorithm 1 of the paper, layer by layer and step by step, on dense matrices."""
    pairs = [
        (content.layers[p][0].delta().abs().flatten(), style.layers[p][0].delta().abs().flatten())
        for p in PATHS
    ]
    if gamma in ("shared", "paper"):  # the same number, as both adapt the same layers
        balance = sum(c.sum() for c, _ in pairs) / sum(s.sum() for _, s in pairs)
    elif gamma == "released":
        ratios = [float(c.sum() / s.sum()) for c, s in pairs]
        mean = sum(ratios) / len(ratios)
        kept = [r for r in ratios if r < 3 * mean]
        balance = sum(kept) / len(kept)
    else:
        balance = 1.0
    k = content.layers[PATHS[0]][0].rank * style.layers[PATHS[0]][0].rank
    answers = []
    for step in range(STEPS):
        scale = alpha * step / STEPS + (beta if pattern == "s" else beta_star)
        if pattern == "s*":
            scale = scale % alpha
        row = []
        for c, s in pairs:
            s_c, s_s = (
                c.sort(descending=True).values[:k].sum(),
                s.sort(descending=True)[0][:k].sum(),
            )
            row.append(bool(s_c >= s_s * balance * scale))
        answers.append(row)
    return answers


@pytest.mark.parametrize("pattern", ["s", "s*"])
@pytest.mark.parametrize("gamma", ["shared", "paper", "released", "none"])
def test_it_is_the_papers_algorithm(pattern, gamma):
    content, style = branch("content", 1, rank=3), branch("style", 2, rank=2, size=1.4)
    expected = by_loops(content, style, pattern, gamma)
    assert takes_content([content, style], pattern=pattern, gamma=gamma) == expected
    assert len({tuple(row) for row in expected}) > 2  # layers do switch, at different steps


def test_a_hand_worked_case():
    """gamma = (8 + 2) / (3 + 2) = 2, so the limits S_c / (gamma S_s) are 1.25 and 0.5.

    S(t) = 0.5, 0.65, ... at steps 0, 1, ...: 1.25 is step 5, where content still acts; 0.5 is
    step 0. Pattern s* starts at 1.3 and 1.45, then falls back to 0.1, 0.25, ...
    """
    statistics = given({"a": (5.0, 2.0), "b": (1.0, 1.0)}, {"a": (8.0, 3.0), "b": (2.0, 2.0)})
    layers = dict.fromkeys("ab", (Factors(torch.ones(1, 1), torch.ones(1, 1)),))
    bank = Bank.of([Branch("c", "content", layers), Branch("s", "style", layers)], ["a", "b"])
    routing = Routing((1.0, 1.0), (frozenset("ab"),) * 2, statistics)

    def content_steps(**knobs):
        gates = FUSION["k_lora"].function(bank, routing, **knobs)
        tables = [gates.at(moment)[0] for moment in MOMENTS]
        return [[i for i, t in enumerate(tables) if t[layer, 0]] for layer in (0, 1)]

    assert content_steps() == [[0, 1, 2, 3, 4, 5], [0]]
    assert content_steps(pattern="s*") == [[2, 3, 4, 5, 6, 7, 8, 9], [2, 3, 4]]
    assert content_steps(gamma="none") == [list(range(10)), [0, 1, 2, 3]]  # limits 2.5 and 1
    assert content_steps(selection="fixed") == [[0, 1, 2, 3]] * 2  # while S(t) <= 1


def test_each_layer_switches_once_from_content_to_style():
    rows = takes_content([branch("content", 3), branch("style", 4)])
    for layer in zip(*rows, strict=True):
        assert sorted(layer, reverse=True) == list(layer)


@pytest.mark.parametrize("gamma", ["shared", "paper", "released", "none"])
@pytest.mark.parametrize("selection", ["top-k", "fixed", "random"])
@pytest.mark.parametrize("pattern", ["s", "s*"])
def test_beside_a_lora_of_zeros_it_is_the_other_alone(gamma, selection, pattern):
    knobs = {"gamma": gamma, "selection": selection, "pattern": pattern}
    content, style = branch("content", 5), branch("style", 6)
    no_content, no_style = branch("content", 5, size=0.0), branch("style", 6, size=0.0)
    for alpha in (0.0, 1.5):
        settings = {**knobs, "alpha": alpha, "beta": 0.0}
        assert all(all(row) for row in takes_content([content, no_style], **settings))
        assert not any(any(row) for row in takes_content([no_content, style], **settings))


def test_every_gamma_takes_out_the_size_of_a_lora():
    style = branch("style", 8)
    for gamma in ("shared", "paper", "released"):
        rows = [
            takes_content([branch("content", 7, size=size), style], gamma=gamma)
            for size in (1e-3, 1.0, 1e3)
        ]
        assert rows[0] == rows[1] == rows[2]
    tiny = takes_content([branch("content", 7, size=1e-3), style], gamma="none")
    assert not any(any(row) for row in tiny)


def test_the_released_gamma_leaves_out_layers_whose_ratio_is_three_times_the_mean():
    """Ratios 2, 2, 2, 2 and 50: the mean is 11.6, so 50 is out and gamma is 2."""
    total = dict.fromkeys(PATHS[:4], (2.0, 1.0)) | {PATHS[4]: (50.0, 1.0)}
    top = dict.fromkeys(PATHS[:5], (2.0 * 1.2, 1.0))
    layers = {p: (Factors(torch.ones(1, 1), torch.ones(1, 1)),) for p in PATHS[:5]}
    pair = [Branch("c", "content", layers), Branch("s", "style", layers)]
    rows = takes_content(pair, given(top, total), gamma="released")  # the limit is 1.2
    assert [row[0] for row in rows] == [0.5 + 0.15 * i <= 1.2 for i in range(STEPS)]


def ones(role, paths, size=1.0):
    layers = {p: (Factors(torch.full((1, 2), size), torch.ones(2, 1)),) for p in paths}
    return Branch(role, role, layers)


def limit_of(branches, gamma):
    """The S(t) up to which content acts in the layers that both adapt, all alike, found by
    halving."""
    low, high = 0.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        rows = takes_content(branches, moments=MOMENTS[:1], gamma=gamma, alpha=0.0, beta=middle)
        both = branches[0].layers.keys() & branches[1].layers.keys()
        acts = {rows[0][PATHS.index(path)] for path in both}
        low, high = (middle, high) if acts == {True} else (low, middle)
    return low


def test_the_papers_gamma_sums_every_layer_of_each_lora_and_shared_those_of_both():
    """Every |dW| sums to 4: content 8 layers and style 2, of which 2 are in both, is Eq. 9's 4."""
    pair = [ones("content", PATHS), ones("style", PATHS[:2])]
    assert limit_of(pair, "paper") == pytest.approx(1 / 4, rel=1e-6)
    assert limit_of(pair, "shared") == pytest.approx(1.0, rel=1e-6)
    three = [ones("content", PATHS[:6], 3.0), ones("style", PATHS[4:])]  # 3 * 6 / 4, and 3
    assert limit_of(three, "paper") == pytest.approx(3 / 4.5, rel=1e-6)
    assert limit_of(three, "shared") == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("more", ["content", "style"])
def test_a_layer_that_one_lora_alone_adapts_moves_no_switch_point_elsewhere(more):
    """Why shared is the default: `paper` counts layers in which nothing is compared."""
    both, extra = PATHS[:4], PATHS[4:]
    pair = [branch("content", 1, paths=both), branch("style", 2, paths=both)]
    longer = [branch(b.role, int(b.name[-1]), paths=both + (extra if b.role == more else []))
              for b in pair]  # fmt: skip
    changed = []
    for gamma in ("shared", "paper", "released", "none"):
        rows = takes_content(pair, gamma=gamma)
        longer_rows = [row[: len(both)] for row in takes_content(longer, gamma=gamma)]
        changed += [] if rows == longer_rows else [gamma]
    assert changed == ["paper"]
    lone = {row[-1] for row in takes_content(longer, gamma="paper")}
    assert lone == {more == "content"}


def test_layers_of_one_lora_are_measured_only_for_the_papers_gamma():
    pair = [branch("content", 1), branch("style", 2, paths=PATHS[:2])]
    asked = []

    def alone(statistic):
        asked.append(statistic)
        return 1.0, 1.0

    statistics = replace(pair_statistics(pair, PATHS), alone=alone)
    for gamma in ("shared", "released", "none"):
        takes_content(pair, statistics, gamma=gamma)
    takes_content(pair, statistics, gamma="paper", selection="fixed")
    assert not asked
    takes_content(pair, statistics, gamma="paper")
    assert asked == ["abs_sum"]


def test_without_growth_the_choice_is_made_once():
    rows = takes_content([branch("content", 1), branch("style", 2)], alpha=0.0, beta=1.0)
    assert all(row == rows[0] for row in rows) and 0 < sum(rows[0]) < len(PATHS)


def test_pattern_s_star_without_growth_stays_where_it_begins():
    pair = [branch("content", 1), branch("style", 2)]
    settings = {"alpha": 0.0, "beta_star": 1.0, "beta": 1.0}
    assert takes_content(pair, pattern="s*", **settings) == takes_content(pair, **settings)


def test_random_selection_takes_content_as_often_as_asked_anew_at_each_step():
    many = [f"layer.{i}" for i in range(400)]
    pair = [branch("content", 1, rank=1, paths=many), branch("style", 2, rank=1, paths=many)]
    bank = Bank.of(pair, many)
    routing = Routing((1.0, 1.0), (frozenset(many),) * 2, pair_statistics(pair, many))

    def tables(**knobs):
        gates = FUSION["k_lora"].function(bank, routing, selection="random", **knobs)
        return torch.stack([gates.at(moment)[0, :, 0] for moment in MOMENTS])

    shares = tables()
    assert shares.mean().item() == pytest.approx(1 / 3, abs=0.03)
    assert not torch.equal(shares[0], shares[1])
    assert torch.equal(shares, tables()) and not torch.equal(shares, tables(seed=1))
    assert tables(content_share=1.0).all() and not tables(content_share=0.0).any()


def test_time_is_the_position_in_the_schedule_whatever_was_asked_before():
    """The release counts calls; here asking twice, or in any order, changes nothing."""
    pair = [branch("content", 1), branch("style", 2)]
    rows = takes_content(pair)
    backwards = takes_content(pair, moments=MOMENTS[::-1] * 2)
    assert backwards == rows[::-1] * 2
    between = takes_content(pair, moments=[Moment(2.5 / (STEPS - 1), STEPS)])[0]
    for early, now, late in zip(rows[2], between, rows[3], strict=True):
        assert early >= now >= late


def test_layers_that_one_role_alone_adapts_stay_its_own():
    content, style = branch("content", 1, paths=PATHS[:5]), branch("style", 2, paths=PATHS[3:])
    for row in takes_content([content, style]):
        assert row[:3] == [True] * 3 and row[5:] == [False] * 3


def test_several_branches_of_a_role_act_together():
    trio = [branch("content", 1), branch("style", 2), branch("content", 3)]
    bank, statistics = Bank.of(trio, PATHS), pair_statistics(trio, PATHS)
    routing = Routing((1.0,) * 3, (frozenset(PATHS),) * 3, statistics)
    gates = FUSION["k_lora"].function(bank, routing)
    for moment in MOMENTS:
        (table,) = gates.at(moment)
        assert torch.equal(table[:, 0], table[:, 2]) and torch.equal(table[:, 1], 1 - table[:, 0])


def test_the_report_tells_when_layers_switch():
    pair = [branch("content", 1), branch("style", 2)]
    bank = Bank.of(pair, PATHS)
    routing = Routing((1.0, 1.0), (frozenset(PATHS),) * 2, pair_statistics(pair, PATHS))
    (note,) = FUSION["k_lora"].function(bank, routing).notes
    steps = 2000
    rows = takes_content(pair, moments=[Moment(i / (steps - 1), steps) for i in range(steps)])
    counts = [sum(layer) for layer in zip(*rows, strict=True)]
    always, never = counts.count(steps), counts.count(0)
    switch = sorted(100 * count / steps for count in counts if 0 < count < steps)
    assert note.startswith(f"K-LoRA: content keeps {always} layers, style {never}; {len(switch)} ")
    assert f"after {switch[0]:.0f} to {switch[-1]:.0f} %" in note and len(switch) > 2
