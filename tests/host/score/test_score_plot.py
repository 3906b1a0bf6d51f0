"""The plot of content against style shows every setting where its scores are."""

import pytest
import torch
from craft_lora_pack.comfy_adapter.draw.pictures import INK, STYLE
from craft_lora_pack.comfy_adapter.draw.score_plot import score_plot
from craft_lora_pack.craft_core.evaluation import Point, Score


def score(mean, half=None):
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Score("content", mean, low, high, 4, ("pictures",), "an encoder", "resized")


def points(pairs, half=None):
    return [Point(f"setting {k}", score(c, half), score(s, half)) for k, (c, s) in enumerate(pairs)]


def ink(plot, colour=INK):
    """(y, x) of the pixels of one colour."""
    return ((plot[0] * 255).round() == torch.tensor(colour)).all(dim=-1).nonzero()


def discs(plot):
    """(y, x) of the middles of the black discs in the plot itself, from left to right."""
    field = ((plot[0, 62:622, 84:644] * 255).round() == torch.tensor(INK)).all(dim=-1)
    filled = torch.nn.functional.avg_pool2d(field[None].float(), 9, 1, 4)[0] > 0.7
    found = []
    for y, x in filled.nonzero().tolist():
        if all((y - v) ** 2 + (x - u) ** 2 > 400 for v, u in found):
            found.append((y, x))
    return sorted(found, key=lambda one: one[1])


def test_a_point_lies_to_the_right_by_its_content_and_higher_by_its_style():
    pairs = [(0.2, 0.9), (0.5, 0.6), (0.8, 0.1)]
    middles = discs(score_plot(points(pairs), "title"))
    assert len(middles) == 3
    heights, places = zip(*middles, strict=True)
    assert list(heights) == sorted(heights)
    rights = [places[1] - places[0], places[2] - places[1]]
    assert rights[0] == pytest.approx(rights[1], abs=8)
    downs = [heights[1] - heights[0], heights[2] - heights[1]]
    assert downs[1] / downs[0] == pytest.approx(5 / 3, rel=0.1)


def test_only_points_of_the_frontier_are_filled():
    assert len(discs(score_plot(points([(0.2, 0.2), (0.5, 0.6), (0.8, 0.1)]), "title"))) == 2


def test_intervals_are_drawn_and_the_axes_hold_them():
    pairs = [(0.2, 0.9), (0.8, 0.1)]
    plain, wide = (score_plot(points(pairs, half), "title") for half in (None, 0.1))
    assert len(ink(wide)) != len(ink(plain))
    near, far = discs(plain), discs(wide)
    assert far[0][1] > near[0][1] and far[1][1] < near[1][1]  # room for the intervals


def test_a_ring_is_around_the_best():
    given = points([(0.2, 0.9), (0.8, 0.1)])
    ringed, plain = score_plot(given, "title", best=0), score_plot(given, "title")
    assert len(ink(ringed, STYLE)) > len(ink(plain, STYLE))


@pytest.mark.parametrize("pairs", [[(0.5, 0.5)], [(0.5, 0.5)] * 3, [(0.0, 0.0), (1.0, 1.0)]])
def test_equal_points_and_single_ones_have_a_plot(pairs):
    plot = score_plot(points(pairs), "title")
    assert plot.isfinite().all() and len(discs(plot)) == 1


def test_many_points_and_long_names_fit():
    given = [Point("a long name, " * 20, one.content, one.style) for one in points([(0.5, 0.5)])]
    many = points([(k / 90, 1 - k / 90) for k in range(90)])
    assert score_plot(many, "title").shape[1] > score_plot(given, "title").shape[1]
    assert score_plot(given, "title").shape[2] < 1400


def test_without_points_there_are_words_alone():
    assert score_plot([], "connect something").shape == (1, 120, 640, 3)
