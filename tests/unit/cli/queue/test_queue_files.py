"""Files carry their parameters and never overwrite another file, and the journal survives being cut
short."""

import io
import json
import time

import pytest
from craft_lora_pack.cli.queue import saving
from craft_lora_pack.cli.queue.batch import MOST_FILES
from craft_lora_pack.cli.queue.journal import NAME, Journal
from craft_lora_pack.cli.queue.matrix import Job, jobs_of
from craft_lora_pack.cli.queue.parameters import parameters_text
from craft_lora_pack.cli.queue.saving import (
    SIGNATURE,
    file_stem,
    is_with_job,
    save_output,
    stems,
    with_job,
)
from craft_lora_pack.client.address import Inputs
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.routing import parse
from fake_comfyui import OBJECT_INFO, PROMPT, picture
from PIL import Image


def job(*matrix):
    return jobs_of(Inputs(PROMPT, OBJECT_INFO), [], matrix or ["seed=3"], [])[0]


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"content": "dog", "seed": "3"}, "demo_content-dog_seed-3"),
        ({"style": "inks/blue ink.safetensors"}, "demo_style-inks_blue_ink"),
        ({"strength": "0.25"}, "demo_strength-0.25"),
        ({"prompt": 'a "cat": <c>/..\\x</c>?*|'}, "demo_prompt-a_cat_c_.._x_c"),
        ({"prompt": "кот"}, "demo_prompt-кот"),
        ({"prompt": "..."}, "demo_prompt-"),
        ({}, "demo"),
    ],
)
def test_names_have_only_what_every_file_system_takes(parameters, name):
    assert file_stem("demo", parameters) == name


def test_a_long_name_fits_a_file_system_whatever_its_alphabet():
    name = file_stem("demo", {f"p{index}": "猫" * 100 for index in range(9)})
    longest = f"{name}_{'猫' * 20}_00001.png.part"
    assert len(longest.encode()) < 255
    assert name.startswith("demo_p0-猫猫")


LONGEST_ENDING = "." + "s" * (saving.MOST_SUFFIX - 1)


@pytest.mark.parametrize(
    ("length", "ending"),
    [(140, ".png"), (180, ".png"), (200, ".png"), (180, LONGEST_ENDING), (195, LONGEST_ENDING)],
)
def test_on_windows_names_are_shorter_in_a_deep_folder_and_stay_apart(
    tmp_path, monkeypatch, length, ending
):
    """Windows takes paths of 259 letters, where it was not told otherwise."""
    folder = tmp_path / ("b" * (length - len(str(tmp_path)) - 1))
    assert len(str(folder)) == length
    monkeypatch.setattr(saving, "_WINDOWS", True)
    jobs = jobs_of(
        Inputs(PROMPT, OBJECT_INFO), [], [f"prompt={'x' * 300}", f"filename_prefix={'y' * 300}",
                                          "seed=1..2"], [],
    )  # fmt: skip
    most = saving.most_name(folder)
    folder.mkdir()
    items = [{"filename": f"{'p' * 50}_00001_{ending}"}, {"filename": "q_00001_.png"}]
    names = [
        save_output(picture(1), folder, stem, "demo", one, item["filename"])
        for one in jobs
        for stem, item in zip(stems("demo", one, items, most), items, strict=True)
    ]
    assert any(name.endswith(ending) for name in names)
    assert max(len(str(folder / name)) for name in names) <= 259
    assert len(set(names)) == 4 and len(list(folder.iterdir())) == 4
    monkeypatch.setattr(saving, "_WINDOWS", False)
    assert saving.most_name(folder) == saving.MOST_NAME


def test_files_of_several_nodes_keep_their_own_prefixes():
    one, two, other = ({"filename": name} for name in ("a_00001_.png", "a_00002_.png", "b_1.png"))
    assert stems("demo", job(), [one, two]) == ["demo_seed-3"] * 2
    assert stems("demo", job(), [one, other]) == ["demo_seed-3_a", "demo_seed-3_b"]


@pytest.mark.parametrize("letter", ["a", "\u00e9", "猫", "𝒳", "\ud800"])
def test_a_file_is_saved_whatever_names_a_server_chooses(tmp_path, letter):
    """However long, in whatever alphabet, beside the longest name that a job may have."""
    one = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], ["prompt=" + "𝒳" * 40], [])[0]
    items = [{"filename": f"{prefix}{letter * 300}.{letter * 300}"} for prefix in "bc"]
    for stem, item in zip(stems("𝒳" * 90, one, items), items, strict=True):
        name = save_output(b"x", tmp_path, stem, "demo", one, item["filename"], 10**8)
        assert (tmp_path / name).is_file() and len(name.encode()) <= 255
        assert stem.rpartition("_")[2][0] == item["filename"][0]


def test_no_file_takes_the_place_of_another(tmp_path):
    names = [
        save_output(b"content", tmp_path, "demo_seed-3", "demo", job(), "a/b.WEBM")
        for _ in range(3)
    ]
    assert names == [f"demo_seed-3_0000{number}.webm" for number in (1, 2, 3)]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_a_picture_keeps_its_texts_and_pixels_and_gets_the_parameters():
    content = with_job(picture(5), "demo", job("prompt=кот"))
    Image.open(io.BytesIO(content)).verify()
    with Image.open(io.BytesIO(content)) as image:
        assert json.loads(image.info["prompt"]) == {"number": 5}
        recorded = json.loads(image.info["craft_queue"])
        assert recorded == {"workflow": "demo", "parameters": {"prompt": "кот"}}
        assert image.getpixel((0, 0)) == (5, 0, 0)


def sampled(text="a cat", **more):
    return {
        "1": {"class_type": "Loader", "inputs": {"ckpt_name": "models\\small.safetensors"}},
        "2": {"class_type": "Encode", "inputs": {"text": text, "clip": ["1", 1]}},
        "3": {"class_type": "Encode", "inputs": {"text": "blurry\n", "clip": ["1", 1]}},
        "4": {"class_type": "Empty", "inputs": {"width": 64, "height": 96, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": {
            "model": ["1", 0], "positive": ["6", 0], "negative": ["3", 0], "latent_image": ["4", 0],
            "seed": 7, "steps": 20, "cfg": 6.5, "sampler_name": "euler", "scheduler": "normal",
            **more}},
        "6": {"class_type": "Router", "inputs": {"conditioning": ["2", 0], "again": ["6", 0]}},
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a cat", "eine Katze, größer", "кот", "猫 🐈"])
def test_a_picture_says_its_settings_as_galleries_read_them(text):
    one = Job({}, sampled(text))
    with Image.open(io.BytesIO(with_job(picture(5), "demo", one))) as image:
        assert image.info["parameters"] == (
            f"{text}\nNegative prompt: blurry\nSteps: 20, Sampler: Euler, Schedule type: Normal, "
            "CFG scale: 6.5, Seed: 7, Size: 64x96, Model: small"
        )
        assert "craft_queue" in image.info and image.getpixel((0, 0)) == (5, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "<c>a sks animal</c> in <s>zwx style</s>",
        "a dog <c> in watercolor style <s>",
        "photo of <C>a dog</C>, <s>ink</s>.",
        "(<c>a dog</c>) in [ <s>ink</s> ], wide",
        "<c>a</c><s>b</s>",
        "a dog<c>in ink<s>",
        "a big<c>dog</c>s",
        "in <s>ink</s> <c>a dog</c>!",
        "a cat",
    ],
)
@pytest.mark.parametrize("is_linked", [False, True])
def test_the_markers_of_a_router_are_not_in_the_text(text, is_linked):
    one = sampled()
    one["6"] = {"class_type": "CRAFTRouter", "inputs": {"prompt": text, "clip": ["1", 1]}}
    if is_linked:
        one["6"]["inputs"]["prompt"] = ["7", 0]
        one["7"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": text}}
    assert parameters_text(one).split("\n")[0] == parse(text).clean


def test_what_looks_like_a_marker_stays_in_another_nodes_text():
    assert parameters_text(sampled("a <c> cat")).startswith("a <c> cat\n")


def test_settings_that_are_not_found_are_left_out():
    assert parameters_text(sampled(cfg=["9", 0], latent_image=["9", 0], model=None)) == (
        "a cat\nNegative prompt: blurry\nSteps: 20, Sampler: Euler, Schedule type: Normal, Seed: 7"
    )
    assert parameters_text({"1": {"class_type": "Save", "inputs": {"images": ["2", 0]}}}) == ""
    assert parameters_text({"1": {"class_type": "S", "inputs": {"seed": 1, "steps": [[], 0]}}}) == (
        "\nSeed: 1"
    )


def test_settings_of_a_prompt_with_very_many_links_are_looked_for_at_once():
    links = {f"i{number}": [f"n{number}", 0] for number in range(400_000)}
    wide = sampled(cfg=1) | {"9": {"class_type": "Wide", "inputs": links}}
    wide["1"] = {"class_type": "S", "inputs": {"seed": 1, "steps": 2, "positive": ["9", 0]}}
    start = time.process_time()
    parameters_text(wide)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("content", [picture(5), b"RIFF....WEBP"])
def test_a_file_of_a_job_is_known_whatever_hashes_it_names(content):
    one = Job({"seed": "7"}, sampled())
    hashes = {"models\\small.safetensors": "a" * 64}
    files = [with_job(content, "demo", one), with_job(content, "demo", one, hashes)]
    assert (files[0] != files[1]) is content.startswith(SIGNATURE)
    assert all(is_with_job(file, content, "demo", one) for file in files)
    other = Job({"seed": "8"}, sampled())
    if content.startswith(SIGNATURE):
        assert not any(is_with_job(file, content, "demo", other) for file in files)
        assert not is_with_job(content, content, "demo", one)
    assert not is_with_job(files[0], picture(6), "demo", one)


def test_what_is_no_png_stays_as_it_is():
    assert with_job(b"RIFF....WEBP", "demo", job()) == b"RIFF....WEBP"


def test_the_journal_knows_what_became_of_a_job(tmp_path):
    journal = Journal(tmp_path, "me")
    assert not journal.is_done(job()) and journal.prompt_id(job()) is None
    journal.queued(job(), "id-1")
    assert Journal(tmp_path, "other").prompt_id(job()) == "id-1"
    assert Journal(tmp_path, "other").client == "me"
    (tmp_path / "a.png").touch()
    journal.done(job(), ["a.png"])
    again = Journal(tmp_path, "other")
    assert again.is_done(job()) and again.prompt_id(job()) is None
    (tmp_path / "a.png").unlink()
    assert not again.is_done(job())


def test_the_longest_line_that_a_job_writes_is_read_again(tmp_path):
    names = [f"{number:05}{'猫' * 60}.png" for number in range(MOST_FILES)]
    Journal(tmp_path, "me").done(job(), names)
    assert not Journal(tmp_path, "me").is_done(job())  # read, and the files are not there


def test_a_line_cut_off_is_passed_over_and_nothing_is_lost_behind_it(tmp_path):
    Journal(tmp_path, "me").done(job("seed=1"), [])
    with (tmp_path / NAME).open("a") as file:
        file.write('{"job": "12')
    Journal(tmp_path, "me").done(job("seed=2"), [])
    again = Journal(tmp_path, "me")
    assert again.is_done(job("seed=1")) and again.is_done(job("seed=2"))


def test_a_file_that_is_no_journal_is_not_written_to(tmp_path):
    (tmp_path / NAME).write_text('{"mine": 1}\n')
    with pytest.raises(CraftError, match="not a journal"):
        Journal(tmp_path, "me")
