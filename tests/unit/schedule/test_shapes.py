"""Schedule shapes: ranges, ends, monotony, hand-worked values, drawn curves."""

import math

import pytest

from craft_core.errors import CraftError
from craft_core.schedule import SHAPES
from craft_core.schedule.curve import interpolate, read_points

NOISES = [i / 40 for i in range(41)]
NUMERIC = [(m.key, p) for m in SHAPES for p in m.parameters if p.knob.minimum is not None]


def course(key, **settings):
    """[(a_c, a_s)] from the last step (noise 0) to the first (noise 1)."""
    method = SHAPES[key]
    return [method.function(noise, **method.knobs(settings)) for noise in NOISES]


def is_monotone(values, slack=1e-12):
    return all(a <= b + slack for a, b in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("key", SHAPES.keys())
def test_a_shape_stays_within_zero_and_one(key):
    assert all(0.0 <= strength <= 1.0 for pair in course(key) for strength in pair)


@pytest.mark.parametrize("key, parameter", NUMERIC, ids=lambda x: getattr(x, "name", x))
def test_over_a_knobs_range_a_shape_stays_within_zero_and_one_or_says_why_not(key, parameter):
    low, high = parameter.knob.minimum, parameter.knob.maximum
    accepted = 0
    for value in [low + (high - low) * i / 10 for i in range(11)]:
        try:
            pairs = course(key, **{parameter.name: value})
        except CraftError as error:
            assert key == "window" and "after" in str(error)
            continue
        accepted += 1
        assert all(0.0 <= strength <= 1.0 for pair in pairs for strength in pair)
    assert accepted >= 5
    for outside in (low - 0.01, high + 0.01, math.nan):
        with pytest.raises(CraftError, match="ranges from"):
            SHAPES[key].knobs({parameter.name: outside})


@pytest.mark.parametrize("key", ["linear", "cosine", "sigmoid", "curve"])
def test_content_is_exactly_full_first_and_gone_last_and_style_the_other_way(key):
    pairs = course(key)
    assert pairs[-1] == (1.0, 0.0) and pairs[0] == (0.0, 1.0)
    assert is_monotone([content for content, _ in pairs])
    assert is_monotone([-style for _, style in pairs])


@pytest.mark.parametrize("key", ["linear", "cosine", "sigmoid"])
def test_content_and_style_add_up_to_one(key):
    assert all(sum(pair) == pytest.approx(1.0, abs=1e-15) for pair in course(key))


def test_cosine_by_hand():
    cosine = SHAPES["cosine"].function
    assert cosine(0.0) == (0.0, 1.0) and cosine(1.0) == (1.0, 0.0)
    assert cosine(0.5) == pytest.approx((0.5, 0.5))
    assert cosine(1 / 3) == pytest.approx((0.25, 0.75))  # cos(pi/3) = 1/2


def test_linear_by_hand():
    assert SHAPES["linear"].function(0.25) == (0.25, 0.75)


def test_constant_is_what_was_set_and_exactly_one_by_default():
    assert set(course("constant")) == {(1.0, 1.0)}
    assert set(course("constant", content=0.3, style=0.0)) == {(0.3, 0.0)}


def test_windows_include_both_their_ends_and_default_to_halves():
    def on(progress, **settings):
        return SHAPES["window"].function(1.0 - progress, **SHAPES["window"].knobs(settings))

    assert [on(p) for p in (0.0, 0.49, 0.5, 0.51, 1.0)] == [
        (1.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 1.0),
    ]  # fmt: skip
    assert on(0.3, content_start=0.3, content_end=0.3)[0] == 1.0


def test_every_step_on_a_windows_end_is_inside_whatever_the_number_of_steps():
    window = SHAPES["window"]
    for steps in range(2, 60):
        for step in range(steps):
            at = step / (steps - 1)
            knobs = window.knobs({"content_start": at, "content_end": at, "style_start": 1.0})
            assert window.function(1.0 - at, **knobs)[0] == 1.0


@pytest.mark.parametrize("role", ["content", "style"])
def test_a_window_that_ends_before_it_starts_is_an_error(role):
    with pytest.raises(CraftError, match=f"{role}_start = 0.8 lies after {role}_end = 0.2"):
        course("window", **{f"{role}_start": 0.8, f"{role}_end": 0.2})


@pytest.mark.parametrize("steepness", [0.1, 1.0, 10.0, 50.0])
@pytest.mark.parametrize("midpoint", [0.0, 0.3, 0.5, 1.0])
def test_sigmoid_has_exact_ends_for_every_setting(steepness, midpoint):
    pairs = course("sigmoid", steepness=steepness, midpoint=midpoint)
    assert pairs[-1] == (1.0, 0.0) and pairs[0] == (0.0, 1.0)
    assert is_monotone([content for content, _ in pairs])


def test_sigmoid_is_half_at_its_middle_and_sharper_when_steeper():
    sigmoid = SHAPES["sigmoid"].function
    assert sigmoid(0.5)[0] == pytest.approx(0.5)
    assert sigmoid(0.6, steepness=5.0)[0] < sigmoid(0.6)[0] < sigmoid(0.6, steepness=40.0)[0]
    assert sigmoid(0.5, midpoint=0.7)[0] > 0.5 > sigmoid(0.5, midpoint=0.3)[0]  # later, earlier
    assert sigmoid(0.25, steepness=0.1)[0] == pytest.approx(0.25, abs=1e-3)  # nearly linear


def test_a_curve_goes_through_its_points_and_is_level_outside_them():
    points = ((0.2, 0.1), (0.5, 0.9), (0.6, 0.9), (0.9, 0.4))
    assert [interpolate(points, x) for x, _ in points] == [y for _, y in points]
    assert interpolate(points, 0.0) == 0.1 and interpolate(points, 1.0) == 0.4
    assert interpolate(((0.3, 0.7),), 0.9) == 0.7


def test_monotone_cubic_by_hand():
    """Secants 2 and 0.5: slopes 2, 1.25, 0.5, all within the circle; Hermite at the middle."""
    points = ((0.0, 0.0), (0.4, 0.8), (0.8, 1.0))
    assert interpolate(points, 0.2) == pytest.approx(0.5 * 0.8 + (2.0 - 1.25) * 0.4 / 8)
    assert interpolate(points, 0.6) == pytest.approx(0.5 * 1.8 + (1.25 - 0.5) * 0.4 / 8)


def test_a_steep_neighbour_is_limited_to_the_circle_by_hand():
    """Secants 0.1 and 10: slopes 0.1 and 5.05 are 1 and 50.5 secants, so both shrink by
    3 / |(1, 50.5)|."""
    points = ((0.0, 0.0), (0.5, 0.05), (0.55, 0.55))
    shrink = 3 / math.hypot(1, 50.5)
    assert interpolate(points, 0.25) == pytest.approx(0.025 + 0.5 * shrink * (0.1 - 5.05) / 8)


def test_a_cubic_curve_never_overshoots_its_points():
    points = ((0.0, 0.0), (0.05, 0.02), (0.5, 1.0), (0.55, 1.0), (0.6, 0.0), (1.0, 0.01))
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        values = [interpolate(points, x0 + (x1 - x0) * i / 50) for i in range(51)]
        assert is_monotone(values if y0 <= y1 else values[::-1])
        assert min(values) >= min(y0, y1) and max(values) <= max(y0, y1)


def test_a_cubic_through_a_straight_line_is_the_line():
    points = tuple((x / 4, x / 8) for x in range(5))
    for x in NOISES:
        assert interpolate(points, x) == pytest.approx(x / 2)


def test_a_curve_reads_time_from_left_to_right():
    settings = {"content": "0 1, 0.5 0", "style": ((0.5, 0.0), (1, 0.4))}
    pairs = course("curve", **settings)
    assert pairs[-1] == (1.0, 0.0) and pairs[0] == (0.0, 0.4)
    assert pairs[30] == pytest.approx((0.5, 0.0))  # noise 0.75 = progress 0.25


def test_points_are_read_from_text_and_any_sequence_and_sorted():
    expected = ((0.0, 1.0), (0.5, 0.25), (1.0, 0.0))
    for points in ("1 0, 0 1,0.5 .25", [[1, 0], (0, 1), [0.5, 0.25]], expected):
        assert read_points(points) == expected


@pytest.mark.parametrize(
    "points",
    ["", (), "0 1 2", "a b", "0", ((0.0, 1.5),), ((-0.1, 0.0),), ((0.5, 0.0), (0.5, 1.0)),
     ((math.nan, 0.0),), ((0.0, math.inf),), None, 3.0, (1.0, 2.0)],
)  # fmt: skip
def test_points_that_make_no_curve_are_refused(points):
    with pytest.raises(CraftError, match="content points are"):
        SHAPES["curve"].function(0.5, content=points)
