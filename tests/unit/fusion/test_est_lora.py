"""EST-LoRA by hand, against dense matrices, and where it equals K-LoRA."""

import pytest
import torch

from craft_core.fusion import FUSION
from craft_core.lora import pair_statistics
from craft_core.time import Moment
from craft_core.types import Bank, Branch, Factors, Routing, Statistics

STEPS = 10
MOMENTS = [Moment(i / (STEPS - 1), STEPS) for i in range(STEPS)]
PATHS = [f"layer.{i}" for i in range(8)]
METHOD = FUSION["est_lora"]


def branch(role, seed, rank=3, paths=PATHS, size=1.0):
    random = torch.Generator().manual_seed(seed)
    made = {}
    for path in paths:
        down = torch.randn(rank, 9, generator=random) * (0.5 + torch.rand((), generator=random))
        made[path] = (Factors(down * size, torch.randn(7, rank, generator=random), 0.5),)
    return Branch(f"{role}-{seed}", role, made)


def content_steps(branches, statistics=None, method=METHOD, **knobs):
    """[layer][step]: whether content acts; checks that exactly one role does."""
    bank = Bank.of(branches, PATHS)
    statistics = statistics or pair_statistics(branches, PATHS)
    routing = Routing((1.0,) * len(branches), (frozenset(PATHS),) * len(branches), statistics)
    gates = method.function(bank, routing, **method.knobs(knobs))
    tables = torch.stack([gates.at(moment)[0] for moment in MOMENTS]).bool()
    content = tables[:, :, [b.role == "content" for b in branches]].any(dim=2)
    style = tables[:, :, [b.role == "style" for b in branches]].any(dim=2)
    assert bool((content ^ style).all())
    return content.T.tolist()


def test_a_hand_worked_case():
    """Energies 8, 2 of content and 4, 1 of style: gamma = 10 / 5 = 2, and both limits are 1.

    S(t) = 0.4 + 1.5 i / 10 is 1 at step 4, where content still acts. Without gamma the limits are
    2 and 2: S(t) reaches 1.75 at the last step, and content keeps both layers.
    """
    factors = (Factors(torch.ones(1, 1), torch.ones(1, 1)),)
    pair = [Branch(role, role, dict.fromkeys(PATHS[:2], factors)) for role in ("content", "style")]
    energies = {PATHS[0]: (8.0, 4.0), PATHS[1]: (2.0, 1.0)}
    statistics = Statistics({"squared_norm": energies}.__getitem__)
    rows = content_steps(pair, statistics, discrepancy=0.4)
    assert rows == [[True] * 5 + [False] * 5] * 2
    rows = content_steps(pair, statistics, discrepancy=0.4, gamma="none")
    assert rows == [[True] * 10] * 2


@pytest.mark.parametrize("gamma", ["shared", "none"])
def test_it_is_the_rule_on_dense_matrices(gamma):
    content, style = branch("content", 1, rank=3), branch("style", 2, rank=2, size=1.4)
    energies = [
        [b.layers[path][0].delta().double().square().sum().item() for path in PATHS]
        for b in (content, style)
    ]
    balance = sum(energies[0]) / sum(energies[1]) if gamma == "shared" else 1.0
    expected = [
        [c >= balance * (1.5 * step / STEPS + 0.3) * s for step in range(STEPS)]
        for c, s in zip(*energies, strict=True)
    ]
    assert content_steps([content, style], discrepancy=0.3, gamma=gamma) == expected
    assert len({sum(row) for row in expected}) > 2  # layers switch, at different steps


def test_with_energies_in_place_of_sums_k_lora_is_the_same_method():
    """Given the same numbers, the discrepancy is K-LoRA's beta."""
    pair = [branch("content", 3), branch("style", 4)]
    energies = dict(pair_statistics(pair, PATHS).shared("squared_norm"))
    same = Statistics(lambda name: energies)
    for discrepancy in (0.0, 0.5, 1.25):
        ours = content_steps(pair, same, discrepancy=discrepancy)
        expected = content_steps(pair, same, FUSION["k_lora"], beta=discrepancy)
        assert ours == expected


def test_the_size_of_a_lora_as_a_whole_does_not_decide():
    style = branch("style", 6)
    rows = [content_steps([branch("content", 5, size=size), style]) for size in (1e-3, 1.0, 1e3)]
    assert rows[0] == rows[1] == rows[2]
    tiny = content_steps([branch("content", 5, size=1e-3), style], gamma="none")
    assert not any(any(row) for row in tiny)


def test_the_more_unlike_the_pictures_the_earlier_style_acts():
    pair = [branch("content", 7), branch("style", 8)]
    counts = [
        sum(map(sum, content_steps(pair, discrepancy=discrepancy)))
        for discrepancy in (0.0, 0.5, 1.0, 2.0)
    ]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 4
    for row in content_steps(pair):
        assert sorted(row, reverse=True) == row  # content first, then style


def test_beside_a_lora_of_zeros_it_is_the_other_alone():
    content, style = branch("content", 9), branch("style", 10)
    for knobs in ({}, {"gamma": "none"}, {"alpha": 0.0, "discrepancy": 0.0}):
        rows = content_steps([content, branch("style", 10, size=0.0)], **knobs)
        assert all(map(all, rows))
        rows = content_steps([branch("content", 9, size=0.0), style], **knobs)
        assert not any(map(any, rows))


def test_a_layer_that_one_lora_alone_adapts_is_its_own_and_moves_no_other():
    both, extra = PATHS[:4], PATHS[4:]
    pair = [branch("content", 1, paths=both), branch("style", 2, paths=both)]
    longer = [branch("content", 1, paths=both + extra), pair[1]]
    rows = content_steps(longer)
    assert rows[:4] == content_steps(pair) and rows[4:] == [[True] * STEPS] * 4


def test_several_branches_of_a_role_act_together():
    trio = [branch("content", 1), branch("style", 2), branch("content", 3)]
    bank = Bank.of(trio, PATHS)
    routing = Routing((1.0,) * 3, (frozenset(PATHS),) * 3, pair_statistics(trio, PATHS))
    for moment in MOMENTS:
        (table,) = METHOD.function(bank, routing).at(moment)
        assert torch.equal(table[:, 0], table[:, 2]) and torch.equal(table[:, 1], 1 - table[:, 0])


def test_the_report_tells_when_layers_switch():
    pair = [branch("content", 1), branch("style", 2)]
    bank = Bank.of(pair, PATHS)
    routing = Routing((1.0, 1.0), (frozenset(PATHS),) * 2, pair_statistics(pair, PATHS))
    (note,) = METHOD.function(bank, routing).notes
    assert note.startswith("EST-LoRA: content keeps ") and "switch after" in note
    assert not METHOD.function(bank, routing, alpha=0.0).notes
