"""`train merge` offers every learned merge with its own settings."""

from __future__ import annotations

import pytest
from craft_lora_pack.cli.command import parser_of
from craft_lora_pack.cli.knob_flags import chosen_method, flag_of
from craft_lora_pack.cli.main import commands_of, main
from craft_lora_pack.cli.train import commands as trainings
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.training import LEARNED

GIVEN = ["--content", "a.png", "--style", "b.png"]
LORAS = ["--content-lora", "dog.safetensors", "--style-lora", "ink.safetensors", "0.8"]
KNOBS = [
    pytest.param(method, parameter, id=f"{method.key}-{parameter.name}")
    for method in LEARNED
    for parameter in method.parameters
]


def parse(*flags):
    return parser_of(commands_of()).parse_args(["train", "merge", *GIVEN, *flags])


@pytest.mark.parametrize("key", LEARNED.keys())
def test_without_flags_a_method_gets_its_own_defaults(key):
    method, knobs = chosen_method(parse("--method", key), LEARNED)
    assert method is LEARNED[key] and knobs == LEARNED[key].knobs({})


@pytest.mark.parametrize("method, parameter", KNOBS)
def test_a_knob_takes_everything_it_declares(method, parameter):
    flag, knob = flag_of(parameter), parameter.knob
    values = knob.choices or (knob.minimum, knob.maximum)
    for value in (True, False) if parameter.type is bool else map(parameter.type, values):
        off = flag.replace("--", "--no-")
        given = [flag if value else off] if parameter.type is bool else [flag, str(value)]
        _, knobs = chosen_method(parse("--method", method.key, *given), LEARNED)
        assert knobs[parameter.name] == value and type(knobs[parameter.name]) is parameter.type


def test_the_ends_of_a_range_and_its_type_are_kept(capsys):
    with pytest.raises(SystemExit):
        parse("--method", "zip_lora", "--similarity-weight", "11")
    assert "similarity_weight = 11.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse("--method", "zip_lora", "--steps", "many")
    assert "'many' is no whole number" in capsys.readouterr().err


def test_a_flag_of_another_method_is_an_error():
    with pytest.raises(CraftError, match="zip_lora was given cycle_weight"):
        chosen_method(parse("--method", "zip_lora", "--cycle-weight", "0.1"), LEARNED)


def test_the_method_has_to_be_named(capsys):
    with pytest.raises(SystemExit):
        parse()
    assert "--method" in capsys.readouterr().err


def test_the_help_names_every_method_every_setting_and_its_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    printed = " ".join(capsys.readouterr().out.split())
    for method in LEARNED:
        assert f"{method.key}: {method.summary}" in printed
        for parameter in method.parameters:
            assert flag_of(parameter) in printed
    assert "duo_lora 0.01" in printed and "zip_lora 100" in printed


def asked(monkeypatch, tmp_path, *flags):
    """What the command asks of the host."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    calls = []

    class Host:
        def train(self, job, data, knobs, watch):
            calls.append((job, data, knobs))

    monkeypatch.setattr(
        trainings, "run_and_report", lambda options, training: training(Host(), None)
    )
    status = main([
        "train", "merge", "--checkpoint", "x.safetensors", "--content", str(tmp_path / "a.png"),
        "--content-caption", "a sks dog", "--style", str(tmp_path / "b.png"),
        "--style-caption", "a house in zwx style", *flags,
    ])  # fmt: skip
    return status, calls


def test_the_host_is_asked_for_what_was_typed(monkeypatch, tmp_path):
    status, ((job, data, knobs),) = asked(
        monkeypatch, tmp_path, *LORAS, "--method", "duo_lora", "--cycle-weight", "0.5",
        "--fused-prompt", "a sks dog in zwx style", "--fused-prompt", "a cat in zwx style",
        "--name", "mine",
    )  # fmt: skip
    assert status == 0 and job.name == "mine" and data.recipe == "duo_lora"
    assert [(e.file, e.role, e.strength) for e in data.experts] == [
        ("dog.safetensors", "content", 1.0), ("ink.safetensors", "style", 0.8),
    ]  # fmt: skip
    assert data.choices["fused_prompt"] == "a sks dog in zwx style\na cat in zwx style"
    assert [one.caption for one in (*data.pictures["content"], *data.pictures["style"])] == [
        "a sks dog", "a house in zwx style",
    ]  # fmt: skip
    assert knobs == LEARNED["duo_lora"].knobs({"cycle_weight": 0.5})


def test_static_mistakes_are_reported_before_the_host_starts(monkeypatch, tmp_path, capsys):
    off = ["--content-lora", "dog.safetensors", "0", "--style-lora", "ink.safetensors", "0"]
    for flags, message in (
        ([*LORAS, "--method", "duo_lora"], "without a fused prompt"),
        ([*LORAS, "--method", "duo_lora", "--fused-prompt", " "], "without a fused prompt"),
        ([*off, "--method", "zip_lora"], "All LoRAs have the strength 0"),
    ):
        status, calls = asked(monkeypatch, tmp_path, *flags)
        assert status == 1 and not calls and message in capsys.readouterr().err
    status, calls = asked(
        monkeypatch, tmp_path, *LORAS, "--method", "duo_lora", "--cycle-weight", "0"
    )
    assert status == 0 and calls


def test_one_lora_is_told_before_the_host_starts(monkeypatch, tmp_path, capsys):
    status, calls = asked(monkeypatch, tmp_path, *LORAS[:2], "--method", "zip_lora")
    assert status == 1 and not calls and "There is 1 LoRA to merge" in capsys.readouterr().err
