"""LoRA Switch and LoRA Composite by hand and in their limits."""

import pytest
import torch

from craft_core.fusion import FUSION
from craft_core.types import Bank, Branch, Factors, Moment, Routing

PATHS = ["a", "b"]
FACTORS = (Factors(torch.ones(1, 1), torch.ones(1, 1)),)


def bank(count, paths=PATHS):
    roles = ("content", "style", "content")
    return Bank.of(
        [Branch(str(j), roles[j], dict.fromkeys(paths, FACTORS)) for j in range(count)], PATHS
    )


def gates(method, count=2, gammas=None, **knobs):
    routing = Routing(gammas or (1.0,) * count, (frozenset(PATHS),) * count)
    return FUSION[method].function(bank(count), routing, **knobs)


def turns(steps, **settings):
    """Which branch has each step."""
    found = gates("switch", **settings)
    tables = [found.at(Moment(i / max(1, steps - 1), steps))[0] for i in range(steps)]
    assert all(table.sum(dim=1).tolist() == [1.0, 1.0] for table in tables)
    return [int(table[0].argmax()) for table in tables]


def test_switch_by_hand():
    assert turns(12) == [0] * 5 + [1] * 5 + [0] * 2
    assert turns(6, every=1) == [0, 1, 0, 1, 0, 1]
    assert turns(7, every=2, count=3) == [0, 0, 1, 1, 2, 2, 0]
    assert turns(12, timing="released") == [0] * 6 + [1] * 5 + [0]
    assert turns(1, every=1) == [0]


def test_switch_changes_at_the_right_step_of_every_run_length():
    """progress * (steps - 1) is a whole number but for rounding, down as well as up."""
    for steps in range(1, 200):
        assert turns(steps, every=1) == [i % 2 for i in range(steps)]


def test_switch_with_a_turn_longer_than_the_run_is_the_first_alone():
    assert turns(20, every=20) == [0] * 20


def test_switch_gives_no_turn_to_a_branch_whose_marker_is_absent():
    assert turns(4, every=1, count=3, gammas=(1.0, 0.0, 1.0)) == [0, 2, 0, 2]
    assert turns(4, every=1, gammas=(0.0, 1.0)) == [1] * 4


def test_switch_changes_only_at_steps_not_at_evaluations_between_them():
    found = gates("switch", every=1)
    for step in range(4):
        for extra in (0.0, 0.4, 0.9):
            table = found.at(Moment((step + extra) / 4, 5))[0]
            assert int(table[0].argmax()) == step % 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_composite_has_a_view_for_each_lora_with_it_alone(count):
    found = gates("composite", count)
    assert found.views == count
    table = found.at(Moment(0.3, 7))
    for view in range(count):
        alone = torch.zeros(len(PATHS), count)
        alone[:, view] = 1.0
        assert torch.equal(table[view], alone)


def test_composite_leaves_out_absent_markers_and_keeps_one_view_without_any():
    found = gates("composite", 3, (0.5, 0.0, 1.0))
    assert found.views == 2
    assert found.at(Moment(0.0, 2))[:, 0].tolist() == [[0.5, 0.0, 0.0], [0.0, 0.0, 1.0]]
    none = gates("composite", 2, (0.0, 0.0))
    assert none.views == 1 and not none.at(Moment(0.0, 2)).any()


def test_one_lora_alone_is_the_direct_merge_in_both():
    direct = gates("direct", 1).at(Moment(0.5, 3))
    for method in ("switch", "composite", "k_lora"):
        assert torch.equal(gates(method, 1).at(Moment(0.5, 3)), direct)
