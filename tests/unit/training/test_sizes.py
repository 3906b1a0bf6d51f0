"""Pictures are made to fit: within the area a model was made for, in whole latent cells."""

from __future__ import annotations

import itertools

import pytest

from craft_core.training.sizes import AREA, CROP, KEEP, PAD, RULES, STRETCH, fitted

SIDES = (1, 7, 60, 64, 100, 480, 513, 640, 1024, 3000, 20_000)
PICTURES = list(itertools.product(SIDES, SIDES))
MODELS = [((64, 64), 1), ((512, 512), 8), ((1024, 1024), 8), ((832, 480), 8), ((1024, 1024), 16)]


def size_of(picture, resize, size, cell):
    made = fitted(picture, resize, size, cell)
    return made.size if made else picture


@pytest.mark.parametrize(("size", "cell"), MODELS)
def test_by_area_no_picture_has_more_pixels_than_the_model_was_made_for(size, cell):
    for picture in PICTURES:
        width, height = size_of(picture, AREA, size, cell)
        assert width % cell == height % cell == 0 and width and height
        assert width * height <= max(size[0] * size[1], cell * max(*picture, cell))
        assert (width > height) <= (picture[0] > picture[1])


@pytest.mark.parametrize(("size", "cell"), MODELS)
def test_by_area_a_picture_keeps_its_shape_nearly(size, cell):
    for picture in PICTURES:
        if min(picture) >= 64 and max(picture) <= 2 * min(picture):
            width, height = size_of(picture, AREA, size, cell)
            stretched = (width / height) / (picture[0] / picture[1])
            assert 0.7 < stretched < 1.4, (picture, width, height)


def test_by_area_what_fits_already_stays_as_it_is():
    for picture in [(64, 64), (32, 64), (1024, 1024), (768, 1344), (8, 8), (1016, 1024)]:
        assert fitted(picture, AREA, (1024, 1024), 8) is None


def test_by_area_the_usual_pictures_of_sdxl_get_the_usual_buckets():
    wanted = {(3000, 3000): (1024, 1024), (4000, 3000): (1152, 896), (3000, 2000): (1216, 832),
              (1080, 1920): (768, 1344)}  # fmt: skip
    assert {one: size_of(one, AREA, (1024, 1024), 8) for one in wanted} == wanted
    assert size_of((640, 480), AREA, (64, 64), 1) == (72, 56)


@pytest.mark.parametrize("resize", [CROP, PAD, STRETCH])
def test_the_other_rules_give_the_size_itself(resize):
    for picture in PICTURES:
        made = fitted(picture, resize, (832, 480), 8)
        assert made is not None and made.size == (832, 480)
        assert made.crop == (resize == CROP)
        assert (made.inner == made.size) or resize == PAD
    assert fitted((832, 480), resize, (832, 480), 8) is None


def test_borders_are_on_one_pair_of_sides_only():
    for picture in PICTURES:
        made = fitted(picture, PAD, (832, 480), 8)
        inner = made.inner if made else (832, 480)
        assert inner[0] == 832 or inner[1] == 480
        assert 1 <= inner[0] <= 832 and 1 <= inner[1] <= 480


def test_a_picture_that_keeps_its_size_keeps_it():
    assert not any(fitted(picture, KEEP, (64, 64), 8) for picture in PICTURES)


def test_every_rule_is_said_in_a_few_words():
    assert list(RULES)[0] == AREA and all(RULES.values())
