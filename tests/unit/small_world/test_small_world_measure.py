"""Training and measuring of the small world, as far as they need no host."""

import numpy as np
import torch
from torch.nn import functional

from small_world.train.data import STYLE_NAMES, any_pairs
from small_world.train.judge import Classes, spoilt
from small_world.train.measuring.fidelity import smallest_distance
from small_world.train.measuring.measure import bootstrapped
from small_world.world.composed import GROUNDS, PALETTES, TECHNIQUES
from small_world.world.objects import OBJECTS
from small_world.world.styles import STYLES


def test_a_composed_class_is_the_sum_of_its_words():
    classes = Classes()
    vectors = classes.styles()
    assert len(vectors) == len(STYLE_NAMES)
    known = zip(classes.parts, (PALETTES, GROUNDS, TECHNIQUES), strict=True)
    rows = {word: part[k] for part, words in known for k, word in enumerate(words)}
    for name in STYLE_NAMES[len(STYLES) :: 97]:
        wanted = functional.normalize(sum(rows[word] for word in name.split()), dim=0)
        assert torch.allclose(vectors[STYLE_NAMES.index(name)], wanted, atol=1e-6)


def test_the_judge_is_trained_on_every_object_and_every_named_style():
    pairs = any_pairs(8000, np.random.default_rng(0))
    assert {content for content, _ in pairs} == set(OBJECTS)
    assert set(STYLES) < {style for _, style in pairs} <= set(STYLE_NAMES)


def test_spoiling_keeps_shape_range_and_what_is_shown():
    images = torch.zeros(4, 3, 64, 64)
    images[:, :, 20:44, 20:44] = 1.0
    out = spoilt(images, torch.Generator().manual_seed(0))
    again = spoilt(images, torch.Generator().manual_seed(0))
    assert out.shape == images.shape and out.abs().max() <= 1
    assert torch.equal(out, again)
    assert (out[:, :, 28:36, 28:36].mean() - out[:, :, :8, :8].mean()) > 0.7


def test_an_interval_holds_the_mean_and_widens_when_objects_are_few():
    rng = np.random.default_rng(0)
    hits = rng.random(400) < 0.6
    many = [(f"c{k}", f"s{k}") for k in range(400)]
    few = [(f"c{k // 200}", f"s{k}") for k in range(400)]
    assert bootstrapped(np.ones(400, bool), many) == (1.0, 1.0)
    low, high = bootstrapped(hits, many)
    assert low < hits.mean() < high and high - low < 0.2
    one_right = np.arange(400) < 200  # the first object always, the second never
    assert bootstrapped(one_right, few) == (0.0, 1.0)


def test_the_smallest_distance_is_to_the_nearest_render():
    renders = torch.stack([torch.full((3, 4, 4), value) for value in (-1.0, 0.0, 0.5)])
    images = torch.stack([renders[1] + 0.1, renders[2], renders[0] - 0.25])
    wanted = torch.tensor([0.1, 0.0, 0.25])
    assert torch.allclose(smallest_distance(images, renders), wanted, atol=1e-4)
