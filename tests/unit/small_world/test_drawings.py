"""The second world: emoji sets are fetched once, drawn as the small world draws, and split."""

import io
import json
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from small_world.drawings import fetch, sets, training
from small_world.drawings.pictures import Drawings
from small_world.drawings.world import ASKED, OTHERS, SHOWN_ON, drawings_world
from small_world.judge import JUDGES, load_judge
from small_world.train import judge as judge_training
from small_world.vocabulary import UNKNOWN, build_words, padded_ids
from small_world.world import captions
from small_world.world.objects import OBJECTS, TRAINED_OBJECTS
from small_world.world.render import Pose

BODY = '<path fill="currentColor"/>'


def packed(folder: Path, name: str, icons: dict, characters: dict | None) -> None:
    """The archive that `npm pack` would bring."""
    place = folder / name
    place.mkdir(parents=True)
    one = sets.SETS[name]
    with tarfile.open(place / f"iconify-json-{name}-{one.version}.tgz", "w:gz") as archive:
        info = {"name": name, "author": {"name": "A"}, "license": {"title": "MIT"}}
        for file, content in (("icons", icons), ("chars", characters or {}), ("info", info)):
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{file}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Two sets of three icons, drawn by a renderer that fills the picture with black."""
    kept = {name: sets.EmojiSet(name, "1") for name in ("fluent-emoji-flat", "noto", "fxemoji")}
    monkeypatch.setattr(sets, "SETS", kept)
    monkeypatch.setattr(fetch, "SETS", kept)
    icons = {"icons": {"honeybee": {"body": BODY}, "dog": {"body": BODY}}, "width": 32}
    packed(tmp_path, "fluent-emoji-flat", icons, {"1f41d-fe0f": "honeybee", "1f415": "dog"})
    other = {"icons": {"bee-2": {"body": BODY}}, "aliases": {"bee-1": {"parent": "bee-2"}}}
    packed(tmp_path, "noto", other, {"1f41d": "bee-1"})
    packed(tmp_path, "fxemoji", {"icons": {"bee-1": {"body": BODY, "left": 3}}}, None)
    drawn = []

    def svg_to_bytes(svg_string: str, width: int, height: int) -> bytes:
        drawn.append(svg_string)
        file = io.BytesIO()
        Image.new("RGBA", (width, height), "black").save(file, "PNG")
        return file.getvalue()

    monkeypatch.setattr(fetch, "_renderer", lambda _: SimpleNamespace(svg_to_bytes=svg_to_bytes))
    fetch.fetch(tmp_path)
    return tmp_path, drawn


def test_a_set_is_matched_by_character_or_by_any_name_of_it_and_drawn_once(fetched):
    folder, drawn = fetched
    made = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png"))
    assert made == ["fluent-emoji-flat/bee.png", "fluent-emoji-flat/dog.png", "fxemoji/bee.png",
                    "noto/bee.png"]  # fmt: skip
    assert len(drawn) == 4 and all("currentColor" not in one for one in drawn)
    assert 'viewBox="3 0 16 16"' in next(one for one in drawn if "3 0" in one)
    assert json.loads((folder / "noto" / "LICENCE.json").read_text())["license"]["title"] == "MIT"
    fetch.fetch(folder)
    assert len(drawn) == 4


def test_without_npm_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"npm, which was not found: install Node\.js"):
        fetch.fetch(tmp_path)


def test_a_folder_without_drawings_says_how_to_get_them(tmp_path):
    with pytest.raises(SystemExit, match="small_world.drawings fetch"):
        Drawings(tmp_path)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """A dot right of the middle, as every set draws every object."""
    folder = tmp_path_factory.mktemp("drawings")
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).ellipse((90, 58, 102, 70), fill="black")
    for name in sets.SETS:
        (folder / name).mkdir()
        for word in sets.NAMES:
            picture.save(folder / name / f"{word}.png")
    return Drawings(folder)


def middle(picture: np.ndarray) -> np.ndarray:
    """(x, y) of what is dark, in units of half the picture."""
    dark = 255.0 - picture[..., 0]
    places = (np.arange(64) + 0.5) / 32 - 1
    return np.array([(dark.sum(0) * places).sum(), (dark.sum(1) * places).sum()]) / dark.sum()


@pytest.mark.parametrize(
    ("pose", "where"),
    [
        (Pose(scale=1), (0.5, 0)),
        (Pose(scale=0.8), (0.4, 0)),
        (Pose(x=0.2, y=-0.1, scale=1), (0.7, -0.1)),
        (Pose(scale=1, turn=90), (0, 0.5)),
        (Pose(scale=1, mirrored=True), (-0.5, 0)),
        (Pose(y=0.1, scale=1, turn=90, mirrored=True), (0, -0.4)),
    ],
)
def test_a_drawing_is_placed_as_a_pose_says(drawings, pose, where):
    np.testing.assert_allclose(middle(drawings.render("dog", "noto", pose=pose)), where, atol=0.02)


def test_a_drawing_is_decided_by_its_seed_and_an_unknown_one_is_named(drawings):
    first, again, other = (drawings.render("dog", "noto", seed) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert (first == again).all() and (first != other).any()
    with pytest.raises(KeyError, match="no drawing of 'gnu'"):
        drawings.render("gnu", "noto")


def test_words_and_sets_are_split_and_the_base_model_saw_none_of_the_held_out():
    held_out = {*sets.HELD_OUT_WORDS}
    assert not {*sets.TUNING_WORDS} & {*sets.REPORT_WORDS}
    assert held_out <= {*sets.NAMES} <= {*OBJECTS} and not held_out & {*TRAINED_OBJECTS}
    assert not held_out & {*sets.TRAINED_WORDS}
    parts = (sets.TRAINED_SETS, sets.TUNING_SETS, sets.REPORT_SETS)
    assert max(Counter(one.name for part in parts for one in part).values()) == 1
    known = build_words()
    for one in sets.TRAINED_SETS:
        assert UNKNOWN not in padded_ids(captions.plain("dog", one.word), known)
    assert not any(one.word for part in parts[1:] for one in part)


def test_the_base_model_learns_trained_sets_and_words_alone(drawings, monkeypatch):
    shown = []
    monkeypatch.setattr(Drawings, "render", lambda _, *pair, seed: shown.append(pair) or _picture())
    pictures, ids = training.captioned_drawings(drawings, 0, 3)
    assert pictures.shape == (training.CHUNK, 64, 64, 3) and len(ids) == training.CHUNK
    assert {word for word, _ in shown} <= {*sets.TRAINED_WORDS}
    assert {style for _, style in shown} == {one.name for one in sets.TRAINED_SETS}
    shown.clear()
    _, labels = training.labelled_drawings(drawings, 0, 3)
    named = [(training.WORDS[c], training.STYLES[s]) for c, s in labels]
    assert named == shown and {style for _, style in shown} == {*sets.SETS}


def _picture() -> np.ndarray:
    return np.zeros((64, 64, 3), np.uint8)


def test_a_lora_is_asked_for_what_it_has_not_learned(drawings):
    world = drawings_world(drawings.folder, Path("models"))
    assert not {*ASKED, *SHOWN_ON} & {*sets.HELD_OUT_WORDS} and not {*ASKED} & {*SHOWN_ON}
    assert {style for _, style in OTHERS} <= world.called.keys()
    assert world.shots == {"content": 4, "style": 4}
    for role, name in (("content", "tiger"), ("style", "openmoji")):
        asked = world.asked_alone(role, name)
        assert len(asked) * world.alone_each(role) >= 24 and len({*asked}) == len(asked)
        assert all("{" not in prompt for _, prompt in asked)
    _, style, caption = world.shown("content", "tiger", 4)[1]
    assert (style, caption) == ("noto", "a sks animal in poster style")
    assert pickle.loads(pickle.dumps(world)).render("dog", "noto").shape == (64, 64, 3)


def test_a_world_that_lacks_what_it_measures_on_says_so(fetched):
    with pytest.raises(SystemExit, match=r"lacks \d+ of the drawings .*small_world.drawings fetch"):
        drawings_world(fetched[0], Path("models"))


class HereFarm:
    """Draws in this process, one chunk when it is asked to wait."""

    def __init__(self, draw, seed: int, workers: int) -> None:
        self.draw, self.seed = draw, seed

    def ready(self, wait: bool = False) -> list:
        return [self.draw(self.seed, 0)] if wait else []

    def close(self) -> None: ...


def test_the_judges_of_the_drawings_begin_with_the_small_worlds(drawings, tmp_path, monkeypatch):
    monkeypatch.setattr(judge_training, "Farm", HereFarm)
    monkeypatch.setattr(judge_training, "RATE", 0.0)
    made = training.train_judges(tmp_path, drawings, 0.1, 1, batch=4, first=training.CHUNK)
    assert [path.name for path in made] == [path.name for path in JUDGES]
    for path, first in zip(made, JUDGES, strict=True):
        new, old = load_judge(path), load_judge(first)
        assert torch.equal(new.content.project.weight, old.content.project.weight)
        assert torch.equal(new.style.project.weight, old.style.project.weight)
