"""The small world: any object in any style, the same bytes, and nothing held out is trained."""

import hashlib

import numpy as np
import pytest
import torch

from small_world import vocabulary
from small_world.architecture import TEXT_LENGTH, VOCABULARY_SIZE
from small_world.judge import (
    JUDGES,
    as_images,
    content_prototypes,
    load_judge,
    nearest,
    style_prototypes,
)
from small_world.train import mixture
from small_world.world import captions
from small_world.world import held_out as lists
from small_world.world.composed import (
    COMPOSED,
    GROUNDS,
    HELD_OUT_COMPOSED,
    PALETTES,
    PARTS,
    TECHNIQUES,
    TRAINED_COMPOSED,
)
from small_world.world.icons import CELL, COLUMNS, ICONS
from small_world.world.objects import (
    DRAWN,
    HELD_OUT_OBJECTS,
    OBJECTS,
    SPARE_OBJECTS,
    TRAINED_OBJECTS,
)
from small_world.world.render import Pose, random_pose, render, style_named
from small_world.world.shapes import ROLES
from small_world.world.styles import HELD_OUT_STYLES, LATER_STYLES, STYLES, TRAINED_STYLES
from small_world.world.textures import TEXTURES

# --- objects and styles


def test_the_world_has_hundreds_of_objects_and_hundreds_of_styles():
    assert len(OBJECTS) == len(DRAWN) + len(ICONS) > 200
    assert len(STYLES) + len(COMPOSED) > 1000
    assert len(TRAINED_COMPOSED) > 200
    assert {len(name.split()) for name in COMPOSED} == {3}


def test_every_role_map_is_well_formed():
    for name, icon in ICONS.items():
        roles = icon.roles()
        assert roles.shape == (CELL, CELL), name
        assert roles.max() <= len(ROLES), name
        assert 0.05 < (roles > 0).mean() < 0.95, name
        assert not roles.flags.writeable
    places = {icon.index for icon in ICONS.values()}
    assert places == set(range(len(ICONS))) and len(places) > COLUMNS


@pytest.mark.parametrize("style", ["flat", "neon", "sketch", "mosaic", "navy ringed wobbly"])
def test_every_object_is_seen_in_every_kind_of_style(style):
    empty = render("cat", style, pose=Pose(scale=1e-3))
    for name in [*OBJECTS] if style == "flat" else [*OBJECTS][::4]:
        picture = render(name, style, seed=1)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        changed = np.abs(picture.astype(int) - empty).max(2) > 24
        assert changed.mean() > 0.02, name


@pytest.mark.parametrize("content", ["cat", "fox"])
def test_every_style_draws_a_drawn_object_and_an_icon(content):
    seen = {render(content, style, pose=Pose()).tobytes() for style in [*STYLES, *COMPOSED[::31]]}
    assert len(seen) == len(STYLES) + len(COMPOSED[::31])


@pytest.mark.parametrize("content", ["owl", "fox"])
def test_the_same_arguments_give_the_same_bytes(content):
    for style in ("comic", "sketch", "teal speckled wobbly"):
        assert np.array_equal(render(content, style, 3), render(content, style, 3))
        assert not np.array_equal(render(content, style, 3), render(content, style, 4))


def test_the_bytes_of_a_few_pictures_are_what_they_were():
    pairs = [("cat", "comic"), ("owl", "flat"), ("house", "vapor"), ("fox", "ink")]
    pictures = b"".join(render(*pair, seed=7).tobytes() for pair in pairs)
    assert hashlib.sha256(pictures).hexdigest()[:16] == "13fcf3fa8d358cbb"


@pytest.mark.parametrize("content", ["cat", "fox"])
def test_a_mirrored_pose_mirrors_the_figure(content):
    plain, mirrored = (render(content, "flat", pose=Pose(mirrored=m)) for m in (False, True))
    apart = np.abs(plain.astype(int) - mirrored[:, ::-1]).max(2) > 40
    assert apart.mean() < 0.03


def test_a_pose_moves_an_icon_as_it_moves_a_drawn_object():
    for content in ("cat", "fox"):
        columns = []
        for x in (-0.4, 0.4):
            picture = render(content, "flat", pose=Pose(x=x, scale=0.5)).astype(int)
            figure = np.abs(picture - picture[0, 0]).max(2) > 24
            columns.append(np.nonzero(figure)[1].mean())
        assert columns[1] - columns[0] == pytest.approx(0.4 * 64, abs=2)


def test_composed_styles_take_each_part_from_its_word():
    first, second = style_named("teal wavy hatched"), style_named("teal dotted solid")
    assert first.colours == second.colours and first.ground == second.ground
    assert first.behind == GROUNDS["wavy"] and second.behind == GROUNDS["dotted"]
    assert first.fill == "hatch" and second.fill == "flat"
    assert set(GROUNDS.values()) <= set(TEXTURES)


@pytest.mark.parametrize("style", ["nothing", "teal wavy", "wavy teal solid", "a b c"])
def test_an_unknown_style_is_named(style):
    with pytest.raises(KeyError, match=f"no style named '{style}'"):
        render("cat", style)


# --- words


def test_no_word_means_two_things():
    kinds = [DRAWN, ICONS, STYLES, PALETTES, GROUNDS, TECHNIQUES, vocabulary.PLACEHOLDERS]
    words = [word for kind in kinds for word in kind]
    assert len(set(words)) == len(words)
    assert not set(words) & (set(vocabulary.FILLERS) - {"sketch"})  # "a sketch of": known since 0.1
    assert all(vocabulary.split_words(word) == [word] for word in words)


def test_new_words_come_after_the_old_ones_and_fit_the_table():
    words = vocabulary.build_words()
    assert len(words) <= VOCABULARY_SIZE
    old = [*DRAWN, *(name for name in STYLES if name not in LATER_STYLES), "sks", "zwx", "animal"]
    newer = min(words[word] for word in [*ICONS, *PARTS])
    assert all(words[word] < newer for word in old)
    newest = min(words[word] for word in LATER_STYLES)
    assert all(words[word] < newest for word in [*ICONS, *PARTS])
    assert (words["sks"], words["cat"], words["flat"]) == (31, 41, 108)
    assert (words["riso"], words["dice"], words["wobbly"]) == (152, 370, 411)


def test_every_caption_has_known_words_and_fits_the_encoder():
    rng, words = np.random.default_rng(0), vocabulary.build_words()
    for k in range(2000):
        pair = (
            [*OBJECTS][k % len(OBJECTS)],
            [*STYLES, *COMPOSED][-k % (len(STYLES) + len(COMPOSED))],
        )
        ids = vocabulary.encode(captions.sample(*pair, rng), words)
        assert vocabulary.UNKNOWN not in ids and len(ids) + 2 <= TEXT_LENGTH


# --- held out


def test_held_out_and_trained_share_nothing_and_leave_nothing_out():
    for held_out, trained, spare, everything in (
        (HELD_OUT_OBJECTS, TRAINED_OBJECTS, SPARE_OBJECTS, OBJECTS),
        (HELD_OUT_STYLES, TRAINED_STYLES, (), STYLES),
        (HELD_OUT_COMPOSED, TRAINED_COMPOSED, (), COMPOSED),
    ):
        assert not set(held_out) & set(trained)
        assert sorted([*held_out, *trained, *spare]) == sorted(everything)
        assert len(held_out) >= 8
    assert "owl" in HELD_OUT_OBJECTS and "vapor" in HELD_OUT_STYLES
    assert {word for name in TRAINED_COMPOSED for word in name.split()} == set(PARTS)


def test_the_held_out_lists_are_two_halves_of_known_words():
    for tuning, report, known in (
        (lists.TUNING_OBJECTS, lists.REPORT_OBJECTS, OBJECTS),
        (lists.TUNING_STYLES, lists.REPORT_STYLES, STYLES),
    ):
        assert (len(tuning), len(report)) == (6, 18)
        assert len({*tuning, *report}) == 24 and {*tuning, *report} <= set(known)
    assert HELD_OUT_OBJECTS == lists.OBJECTS and HELD_OUT_STYLES == lists.STYLES
    assert len(TRAINED_STYLES) >= 40
    assert sum(name in ICONS for name in TRAINED_OBJECTS) >= 120
    assert sum(name in DRAWN for name in TRAINED_OBJECTS) >= 50


def test_the_base_model_sees_the_icons_with_the_least_detail():
    shown = max(ICONS[name].borders() for name in TRAINED_OBJECTS if name in ICONS)
    assert shown <= min(ICONS[name].borders() for name in SPARE_OBJECTS)
    assert all(name in ICONS for name in SPARE_OBJECTS)


def test_one_random_pose_in_ten_faces_the_other_way():
    rng = np.random.default_rng(0)
    assert 0.08 < np.mean([random_pose(rng).mirrored for _ in range(2000)]) < 0.12


def test_held_out_words_never_occur_in_the_training_pool():
    rng = np.random.default_rng(0)
    held_out = {*HELD_OUT_OBJECTS, *HELD_OUT_STYLES, *HELD_OUT_COMPOSED}
    pairs = {mixture.trained_pair(rng) for _ in range(20_000)}
    assert not held_out & {word for pair in pairs for word in pair}
    assert {content for content, _ in pairs} == set(TRAINED_OBJECTS)
    for objects, styles in mixture.KINDS.values():
        assert not held_out & {*objects, *styles}


# --- the judge


@pytest.fixture(scope="module", params=JUDGES, ids=["first", "second"])
def judge(request):
    return load_judge(request.param)


def test_the_judge_tells_fresh_renders_apart(judge):
    contents, styles = [*OBJECTS][::9], [*STYLES][::3]
    known = content_prototypes(judge, contents, 8), style_prototypes(judge, styles, 8)
    pairs = [(c, styles[k % len(styles)]) for k, c in enumerate(contents * 2)]
    images = as_images(render(*pair, seed=31_000 + k) for k, pair in enumerate(pairs))
    content = nearest(judge.content_embedding(images), known[0])
    style = nearest(judge.style_embedding(images), known[1])
    assert np.mean([found == asked[0] for found, asked in zip(content, pairs, strict=True)]) >= 0.9
    assert np.mean([found == asked[1] for found, asked in zip(style, pairs, strict=True)]) >= 0.9


def test_content_is_compared_whatever_the_style_and_style_whatever_the_content(judge):
    first = as_images([render("cat", "comic", 1), render("fox", "ink", 2)] * 2)
    second = as_images(
        [render("cat", "vapor", 3), render("fox", "gold", 4)]
        + [render("mosque", "comic", 5), render("taco", "ink", 6)]
    )
    content = judge.content_similarity(first, second)
    style = judge.style_similarity(first, second)
    assert content[:2].min() > content[2:].max()
    assert style[2:].min() > style[:2].max()


def test_embeddings_are_unit_vectors_and_pictures_do_not_touch_each_other(judge):
    images = as_images(render(name, "flat", 1) for name in ("cat", "owl", "fox"))
    for embedding in (judge.content_embedding, judge.style_embedding):
        vectors = embedding(images)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
        assert torch.allclose(embedding(images[1:2]), vectors[1:2], atol=1e-5)
