import pytest

from craft_core.errors import CraftError
from craft_core.projection import rank_schedule


def layers(count, out=640, inner=(320,)):
    return {f"blocks.{i}": (out, *inner) for i in range(count)}


def test_ranks_fall_linearly_in_depth_order():
    schedule = rank_schedule(layers(5), r_max=64, r_min=4)
    assert schedule.ranks == {f"blocks.{i}": r for i, r in enumerate([64, 49, 34, 19, 4])}
    assert not schedule.capped and not schedule.emptied


def test_the_given_order_is_the_depth_not_the_name():
    backwards = dict(reversed(layers(5).items()))
    assert next(iter(rank_schedule(backwards).ranks.items())) == ("blocks.4", 64)


def test_halves_round_up():
    # Eq. 2 gives 4, 2.5, 1
    assert list(rank_schedule(layers(3), r_max=4, r_min=1).ranks.values()) == [4, 3, 1]
    # and 2, 1.75, 1.5, 1.25, 1
    assert list(rank_schedule(layers(5), r_max=2, r_min=1).ranks.values()) == [2, 2, 2, 1, 1]


@pytest.mark.parametrize("count", [2, 3, 7, 140, 794])
def test_first_and_last_layer_get_the_ends_of_the_range(count):
    ranks = list(rank_schedule(layers(count)).ranks.values())
    assert ranks[0] == 64 and ranks[-1] == 4
    assert ranks == sorted(ranks, reverse=True)


def test_a_single_layer_gets_the_largest_rank():
    assert rank_schedule(layers(1)).ranks == {"blocks.0": 64}


def test_equal_ends_are_a_constant_schedule():
    assert set(rank_schedule(layers(9), r_max=8, r_min=8).ranks.values()) == {8}


def test_a_small_layer_caps_its_rank_and_says_so():
    shapes = {"in": (320, 4, 3, 3), "mid": (20, 64), "out": (4, 320, 3, 3)}
    schedule = rank_schedule(shapes, r_max=64, r_min=4)
    assert schedule.ranks == {"in": 64, "mid": 20, "out": 4}
    assert schedule.capped == {"mid": 34}
    assert schedule.emptied == ("mid", "out")


def test_the_input_side_caps_at_the_flattened_inputs():
    shapes = {"in": (320, 4, 3, 3), "mid": (20, 64), "out": (4, 320, 3, 3)}
    schedule = rank_schedule(shapes, side="input")
    assert schedule.ranks == {"in": 36, "mid": 34, "out": 4}
    assert schedule.capped == {"in": 64} and schedule.emptied == ("in",)


@pytest.mark.parametrize(("r_max", "r_min"), [(4, 64), (4, 0), (-1, -2), (64.5, 4)])
def test_impossible_ranges_are_refused(r_max, r_min):
    with pytest.raises(CraftError, match="whole numbers"):
        rank_schedule(layers(3), r_max=r_max, r_min=r_min)


def test_no_layers_and_unknown_sides_are_refused():
    with pytest.raises(CraftError, match="at least one"):
        rank_schedule({})
    with pytest.raises(CraftError, match="'output'"):
        rank_schedule(layers(3), side="columns")
