"""Schedule: floors, neutrality, refusals."""

import pytest

from craft_core.errors import CraftError
from craft_core.schedule import SHAPES, Schedule, sample_curve
from craft_core.types import Moment

MOMENTS = [Moment(i / 29, 30) for i in range(30)]


def test_without_settings_a_schedule_is_exactly_one():
    assert {Schedule().strengths(moment) for moment in MOMENTS} == {(1.0, 1.0)}


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.3, 1 / 3, 0.7, 0.9, 1.0])
def test_a_floor_keeps_full_strength_exact_and_is_what_nothing_becomes(floor):
    window = Schedule("window", {}, floor, floor)
    assert window.strengths(Moment(0.0, 5)) == (1.0, floor)
    assert window.strengths(Moment(1.0, 5)) == (floor, 1.0)
    assert Schedule("constant", {}, floor, floor).strengths(MOMENTS[3]) == (1.0, 1.0)


def test_a_floor_of_zero_changes_nothing_bitwise_and_of_one_leaves_only_ones():
    for shape in SHAPES:
        for moment in MOMENTS:
            plain = shape.function(moment.noise)
            assert Schedule(shape.key).strengths(moment) == plain
            assert Schedule(shape.key, {}, 1.0, 1.0).strengths(moment) == (1.0, 1.0)


def test_a_floor_keeps_the_order_of_strengths_and_is_never_passed_below():
    for floor in (0.05, 0.5, 0.95):
        strengths = [Schedule("cosine", {}, floor, floor).strengths(m) for m in MOMENTS]
        contents = [content for content, _ in strengths]
        assert contents == sorted(contents, reverse=True)
        assert min(min(pair) for pair in strengths) == floor
    assert Schedule("linear", {}, 0.2).strengths(Moment(0.5, 3)) == (pytest.approx(0.6), 0.5)


def test_each_role_has_its_own_floor():
    schedule = Schedule("cosine", {}, content_floor=0.25)
    assert schedule.strengths(Moment(1.0, 2)) == (0.25, 1.0)
    assert schedule.strengths(Moment(0.0, 2)) == (1.0, 0.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"shape": "cosinus"}, "no schedule shape"),
        ({"shape": "cosine", "settings": {"steepness": 1.0}}, "Remove"),
        ({"shape": "sigmoid", "settings": {"steepness": 0.0}}, "ranges from 0.1"),
        ({"shape": "window", "settings": {"style_end": 0.1}}, "lies after"),
        ({"shape": "curve", "settings": {"style": ()}}, "style points"),
        ({"content_floor": -0.1}, "content_floor"),
        ({"style_floor": 1.1}, "style_floor"),
        ({"style_floor": float("nan")}, "style_floor"),
        ({"clock": "wall"}, "no clock"),
    ],
)
def test_a_mistake_shows_when_the_schedule_is_made(arguments, message):
    with pytest.raises(CraftError, match=message):
        Schedule(**arguments)


def test_a_picture_samples_from_the_first_to_the_last_step():
    schedule = Schedule("cosine", {}, 0.1, 0.2)
    points = sample_curve(schedule, 5)
    assert [progress for progress, *_ in points] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert points[0] == (0.0, 1.0, 0.2) and points[-1] == (1.0, 0.1, 1.0)
    assert points[1][1:] == schedule.strengths(Moment(0.25, 9))
