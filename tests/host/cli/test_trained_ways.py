"""What `bench methods` trains for a pair: every kind is made once, kept, and acts in a picture."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest
import torch
from craft_lora_pack.comfy_adapter.train.start import start_training

from benchmarks.parts.method_runs import WAYS
from benchmarks.parts.trained_ways import KINDS, Trainer, needs
from launcher.paths import ROOT
from small_world.train.measuring import loras

MODELS = ROOT / "small_world" / "models"
CONTENT, STYLE = "owl", "vapor"
PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
STEPS_DIVIDED = 200  # of every training


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path_factory.mktemp("trained")))
    with torch.inference_mode():
        studio = loras.Studio(MODELS / "checkpoints" / "craft_small_world.safetensors")
        basis = MODELS / "craft_bases" / "craft_small_world_basis.safetensors"
        made = Trainer(studio, loras, basis, STEPS_DIVIDED)
        for role, name in (("content", CONTENT), ("style", STYLE)):
            studio.lora(role, name, loras.SHOTS[role], STEPS_DIVIDED)
        yield made
    folder_paths.set_output_directory(before)


def kept() -> dict[Path, int]:
    """The trained files, and when each was written."""
    files = Path(folder_paths.get_output_directory()).rglob("*_00001_.safetensors")
    return {file: file.stat().st_mtime_ns for file in files}


def drawn(trainer, way, made):
    return trainer.studio.pictures(
        [(*one, 1.0) for one in made.files], PROMPT, loras.own_noise(CONTENT, STYLE, count=1),
        method=way.method, layer_sets=way.layer_sets, model=made.model, encoder=made.encoder,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_trained_once_and_acts(trainer, kind, monkeypatch):
    monkeypatch.setattr(loras, "SAMPLING_STEPS", 1)
    for need in needs(kind, CONTENT, STYLE):
        trainer.single(need)
    single = kept()
    made = trainer.made(kind, CONTENT, STYLE)
    pair = kept()
    # What another process may need for another pair is there before the pair's own training.
    assert all(CONTENT in file.name and STYLE in file.name for file in pair.keys() - single.keys())
    again = trainer.made(kind, CONTENT, STYLE)
    assert (again, kept()) == (made, pair)
    assert trainer.made_for()["basis"]
    way = next(one for one in WAYS.values() if one.trained == kind)
    picture = drawn(trainer, way, made)
    assert picture.isfinite().all()
    without = trainer.studio.pictures(
        [], PROMPT, loras.own_noise(CONTENT, STYLE, count=1), model=made.model
    )
    assert not torch.equal(picture, without)


def test_what_a_stop_left_or_other_settings_made_is_not_taken_for_the_whole(trainer, monkeypatch):
    def lora(**changes):
        filled = loras.FilledSlots(
            {"images": loras.captioned("style", STYLE, 1)}, (),
            {"role": "style", "layer_sets": "all"},
        )  # fmt: skip
        knobs = {**loras.RECIPE, "steps": 2, **changes}
        return trainer.studio.trained("changed", loras.TRAINING["lora"], filled, knobs)

    def written():
        return {file: when for file, when in kept().items() if "changed" in file.name}

    name = lora()
    first = written()
    assert (lora(), written()) == (name, first)
    for changes in ({"steps": 3}, {"rank": 2}, {"learning_rate": 0.001}):
        before = written()
        assert lora(**changes) == name
        assert written().keys() == before.keys() and written() != before
        assert (lora(**changes), written()) == (name, written())
    with monkeypatch.context() as patched:
        patched.setattr(loras, "start_training", stopped_at_once)
        with pytest.raises(KeyboardInterrupt):
            lora(steps=4)
    (file,) = written()
    half = loras.safe_open(str(file), "pt").metadata()
    assert half["steps_done"] == "1"
    before = written()
    assert lora(steps=4) == name and written() != before


def stopped_at_once(parts, method, filled, knobs, how, watch):
    """A training that Ctrl-C ends in its first step; what it learned is saved."""

    def stop(training):
        raise KeyboardInterrupt

    return start_training(parts, method, filled, knobs, how, stop)


def test_role_guidance_with_the_weight_of_cfg_is_acfg(trainer, monkeypatch):
    monkeypatch.setattr(loras, "SAMPLING_STEPS", 2)
    pair = {"content": CONTENT, "style": STYLE}
    files = [
        (trainer.studio.lora(role, name, loras.SHOTS[role], STEPS_DIVIDED), role, 1.0)
        for role, name in pair.items()
    ]
    noise = loras.own_noise(CONTENT, STYLE, count=1)

    def pictures(**others):
        return trainer.studio.pictures(files, PROMPT, noise, cfg=2.0, **others)

    acfg = pictures(asymmetric=True)
    torch.testing.assert_close(pictures(weight=2.0), acfg)
    assert not torch.allclose(pictures(weight=1.5), acfg)
