"""Pictures are made to fit: within the area a model was made for, in whole latent cells."""

from __future__ import annotations

import itertools
import math

import pytest

from craft_core.families import FAMILIES
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


NATIVE = sorted({one.latent[1:] for one in FAMILIES.values() if one.latent})
TYPED = [(512, 512), (1000, 1000), (1344, 768), (384, 256), (600, 440), (64, 64)]
LARGER = [(2000, 2000), (1329, 1329), (20_000, 20_000), (4001, 4001)]


@pytest.mark.parametrize("size", [*NATIVE, *TYPED])
@pytest.mark.parametrize("cell", [1, 8, 16, 32])
def test_by_area_a_square_picture_stays_square(size, cell):
    for picture in [*LARGER, (64, 64), (1000, 1000)]:
        width, height = size_of(picture, AREA, size, cell)
        assert width == height, (picture, width, height)


@pytest.mark.parametrize("size", [one for one in [*NATIVE, *TYPED] if one[0] == one[1]])
def test_by_area_a_larger_square_picture_gets_a_square_size_itself(size):
    assert all(size_of(one, AREA, size, 8) == size for one in LARGER if one[0] > size[0])


@pytest.mark.parametrize("size", [one for one in [*NATIVE, *TYPED] if min(one) >= 256])
@pytest.mark.parametrize("cell", [8, 16])
def test_by_area_no_other_bucket_shows_the_whole_picture_larger_or_as_large_in_a_nearer_shape(
    size, cell
):
    area, step = size[0] * size[1], 8 * cell
    sides = range(step, area // step + 1, step)
    buckets = [(w, h) for w, h in itertools.product(sides, sides) if w * h <= area]

    def shown(bucket, picture):
        return min(one / own for one, own in zip(bucket, picture, strict=True))

    def error(bucket, picture):
        return abs(math.log(bucket[0] / bucket[1] * picture[1] / picture[0]))

    for picture in [(4000, 3000), (3000, 2000), (1080, 1920), (2100, 2000), (5000, 1700)]:
        if picture[0] * picture[1] <= area:
            continue
        made = size_of(picture, AREA, size, cell)
        assert made[0] * made[1] <= area
        best = max(shown(one, picture) for one in buckets)
        alike = [one for one in buckets if math.isclose(shown(one, picture), best)]
        assert shown(made, picture) >= best * (1 - 1e-9)
        if math.isclose(shown(made, picture), best):
            assert error(made, picture) <= min(error(one, picture) for one in alike) + 1e-9


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
