"""The matrix: what a user writes, and the jobs that come of it."""

import pytest
from craft_lora_pack.cli.queue import matrix as queue_matrix
from craft_lora_pack.cli.queue.matrix import jobs_of, prompt_key
from craft_lora_pack.client.address import Inputs
from craft_lora_pack.craft_core.errors import CraftError
from fake_comfyui import LORAS, OBJECT_INFO, PROMPT


def jobs(*axes, settings=(), aliases=()):
    return jobs_of(Inputs(PROMPT, OBJECT_INFO), settings, axes, aliases)


def values(axis):
    return [next(iter(job.parameters.values())) for job in jobs(axis)]


def test_every_combination_is_a_job_and_the_last_axis_is_the_fastest():
    made = jobs("content=dog,cat", "style=ink,oil", "seed=1..2", settings=["prompt=a dog"])
    assert [job.name for job in made[:3]] == [
        "content=dog style=ink seed=1",
        "content=dog style=ink seed=2",
        "content=dog style=oil seed=1",
    ]
    assert len({job.key for job in made}) == 8
    last = made[-1].prompt
    assert last["1"]["inputs"] | {
        "content_lora": LORAS[1], "style_lora": LORAS[3], "prompt": "a dog",
    } == last["1"]["inputs"]  # fmt: skip
    assert last["2"]["inputs"]["seed"] == 2


def test_without_a_matrix_there_is_one_job():
    (job,) = jobs(settings=["seed=3"])
    assert job.parameters == {} and job.prompt["2"]["inputs"]["seed"] == 3


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("seed=1..4", ["1", "2", "3", "4"]),
        ("seed=4..1..2", ["4", "2"]),
        ("seed=-1..1", ["-1", "0", "1"]),
        ("seed=1..2,7", ["1", "2", "7"]),
        ("strength=0.2..1.0..0.2", ["0.2", "0.4", "0.6", "0.8", "1.0"]),
        ("strength=1..0..0.4", ["1.0", "0.6", "0.2"]),
        ('prompt="a cat, red", a dog', ["a cat, red", "a dog"]),
        ("prompt=1..3", ["1..3"]),  # a text is no range
    ],
)
def test_values_are_lists_and_ranges_of_exact_numbers(axis, expected):
    assert values(axis) == expected


def test_a_file_gives_a_value_a_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat, red\n\n  1..3\n", encoding="utf-8")
    assert values(f"prompt=@{file}") == ["a cat, red", "1..3"]


def test_an_alias_sets_all_its_inputs():
    made = jobs("both=dog,cat", aliases=["both=1.content_lora", "both=Router.style_lora"])
    assert [job.prompt["1"]["inputs"]["style_lora"] for job in made] == LORAS[:2]
    assert [job.prompt["1"]["inputs"]["content_lora"] for job in made] == LORAS[:2]


def test_an_addressed_axis_is_called_by_its_input():
    (job,) = jobs("Main v1.5.seed=3")
    assert job.parameters == {"seed": "3"}


def test_the_key_is_of_the_prompt_alone():
    (plain,) = jobs("seed=3")
    (addressed,) = jobs(settings=["Main v1.5.seed=3"])
    assert plain.key == addressed.key != jobs("seed=4")[0].key


def test_a_journal_of_an_earlier_version_knows_its_jobs():
    inputs = {"text": "a (cat:1.2), 50% | b", "seed": 7}
    prompt = {
        "1": {"class_type": "Text", "inputs": inputs, "_meta": {"title": "any"}},
        "2": {"class_type": "Show", "inputs": {"images": ["1", 0]}},
    }
    assert prompt_key(prompt) == "da7dc019bfa0b6c17ddd2db6"


def test_a_text_without_signs_leaves_a_job_as_it_was_and_a_draw_is_made_again_alike():
    def made(text):
        dynamic = [("1", "prompt")]
        (job,) = jobs_of(Inputs(PROMPT, OBJECT_INFO), [f"prompt={text}"], [], [], dynamic)
        return job

    (plain,) = jobs(settings=["prompt=a dog | (b:1.2)"])
    assert made("a dog | (b:1.2)") == plain
    drawn = made("a {dog|cat}")
    assert drawn == made("a {dog|cat}")
    assert drawn.undrawn["1"]["inputs"]["prompt"] == "a {dog|cat}"
    assert drawn.prompt["1"]["inputs"]["prompt"] in ("a dog", "a cat")


@pytest.mark.parametrize(
    ("matrix", "settings", "words"),
    [
        (["seed"], [], "form NAME=VALUES"),
        (["seed="], [], "empty"),
        (["seed=1,,2"], [], "empty value"),
        (["seed=1,1"], [], "1 twice"),
        (["seed=1..3,2"], [], "2 twice"),
        (["seed=1"], ["2.seed=3"], "2.seed is set twice"),
        (["seed=one"], [], "whole number"),
        (["strength=0.2..1.0"], [], "no step"),
        (["strength=0..1..0"], [], "too many"),
        (["seed=1..20000"], [], "too many"),
        (["seed=1..200", "strength=1..200"], [], "40000 jobs"),
        (["prompt=@no-such-file"], [], "cannot be read"),
    ],
)
def test_what_makes_no_matrix_is_told(matrix, settings, words):
    with pytest.raises(CraftError, match=words):
        jobs(*matrix, settings=settings)


def test_an_alias_is_told_how_it_is_written():
    with pytest.raises(CraftError, match="form NAME=NODE.INPUT"):
        jobs(aliases=["seed"])


def test_jobs_of_a_large_workflow_are_fewer(monkeypatch):
    monkeypatch.setattr(queue_matrix, "MOST_NODES", 3 * len(PROMPT))
    assert len(jobs("seed=1..3")) == 3
    with pytest.raises(CraftError, match="4 jobs of 3 nodes each"):
        jobs("seed=1..4")
