"""Every knob of every recipe is a flag, with the knob's own range, and the help names them all."""

from __future__ import annotations

import math

import pytest
from craft_lora_pack.cli.command import parser_of
from craft_lora_pack.cli.knob_flags import flag_of, knobs_of
from craft_lora_pack.cli.main import commands_of
from craft_lora_pack.cli.train.common import job
from craft_lora_pack.cli.train.loras import experts
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.training import TRAINING
from craft_lora_pack.craft_core.training.slots import PictureSlot, RoleSlot

RECIPES = {("train", one.traits.slots.command): one for one in TRAINING}
KNOBS = [(words, p) for words, method in RECIPES.items() for p in method.parameters]
RANGED = [one for one in KNOBS if one[1].knob.maximum is not None]


def _name(value) -> str:
    return value[1] if isinstance(value, tuple) else value.name


every_knob = pytest.mark.parametrize(("words", "parameter"), KNOBS, ids=_name)
every_range = pytest.mark.parametrize(("words", "parameter"), RANGED, ids=_name)
every_recipe = pytest.mark.parametrize("words", RECIPES, ids=" ".join)


def required(words) -> list[str]:
    """The flags without which the command does not start, from what its recipe declares."""
    slots = RECIPES[words].traits.slots
    pictures = [f"--{slot.key} a.png" for slot in slots.of(PictureSlot) if slot.required]
    roles = [f"--{slot.key} content" for slot in slots.of(RoleSlot)]
    return " ".join([*pictures, *roles]).split()


def parse(words, *flags):
    return parser_of(commands_of()).parse_args([*words, *required(words), *flags])


def refused(capsys, words, *flags) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(words, *flags)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_every_recipe_has_a_command():
    assert {method.key for method in RECIPES.values()} == set(TRAINING.keys())
    assert set(RECIPES) <= {command.words for command in commands_of()}


@every_recipe
def test_a_command_without_a_flag_it_requires_is_refused(words, capsys):
    flags = required(words)
    for at in range(0, len(flags), 2):
        with pytest.raises(SystemExit):
            parser_of(commands_of()).parse_args([*words, *flags[:at], *flags[at + 2 :]])
        assert flags[at] in capsys.readouterr().err


@every_recipe
def test_without_flags_a_recipe_gets_its_defaults(words):
    assert knobs_of(parse(words), RECIPES[words]) == RECIPES[words].knobs({})


def possible(parameter) -> list:
    """Both ends of the range, or every choice."""
    knob = parameter.knob
    if parameter.type is bool:
        return [True, False]
    if knob.choices:
        return list(knob.choices)
    return [parameter.type(knob.minimum), parameter.type(knob.maximum)]


@every_knob
def test_a_knob_takes_everything_it_declares(words, parameter):
    flag = flag_of(parameter)
    for value in possible(parameter):
        if parameter.type is bool:
            given = [flag if value else flag.replace("--", "--no-")]
        else:
            given = [flag, str(value)]
        read = knobs_of(parse(words, *given), RECIPES[words])[parameter.name]
        assert read == value and type(read) is parameter.type


@every_range
def test_a_number_outside_its_range_is_refused_with_the_range(words, parameter, capsys):
    knob, outside = parameter.knob, parameter.type(parameter.knob.maximum + 1)
    if outside == knob.maximum:  # a seed's maximum as a float swallows the 1
        outside = 2 * knob.maximum
    message = refused(capsys, words, flag_of(parameter), str(outside))
    assert flag_of(parameter) in message and str(knob.maximum) in message


@every_range
def test_what_is_no_number_is_refused(words, parameter, capsys):
    for text in ("many", "", str(math.nan)):
        message = refused(capsys, words, flag_of(parameter), text)
        assert flag_of(parameter) in message


@pytest.mark.parametrize(
    ("words", "parameter"), [one for one in KNOBS if one[1].knob.choices], ids=_name
)
def test_an_unknown_choice_is_refused_with_the_known_ones(words, parameter, capsys):
    message = refused(capsys, words, flag_of(parameter), "something else")
    assert all(choice in message for choice in parameter.knob.choices)


@every_recipe
def test_the_help_tells_every_knob(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parser_of(commands_of()).parse_args([*words, "--help"])
    assert caught.value.code == 0
    text = "".join(capsys.readouterr().out.split())  # however it is wrapped
    for parameter in RECIPES[words].parameters:
        assert flag_of(parameter) in text
        assert "".join(parameter.knob.help.split()) in text


def test_a_lora_of_an_encoder_may_have_a_strength():
    given = ["--content-lora", "a.safetensors", "0.5", "--style-lora", "b.safetensors"]
    read = experts(parse(("train", "encoder"), *given))
    assert [(one.file, one.role, one.strength) for one in read] == [
        ("a.safetensors", "content", 0.5),
        ("b.safetensors", "style", 1.0),
    ]


@pytest.mark.parametrize("strength", ["much", "nan", "inf", "0.5 0.5"])
def test_a_strength_is_one_number(strength):
    given = ["--content-lora", "a.safetensors", *strength.split()]
    with pytest.raises(CraftError, match="--content-lora"):
        experts(parse(("train", "encoder"), *given))


def test_a_flag_is_not_guessed_from_its_beginning(capsys):
    assert "--ran" in refused(capsys, ("train", "lora"), "--ran", "4")


@pytest.mark.parametrize("text", ["0x0", "64x", "-64", "64x64x64", "wide", ""])
def test_a_size_is_width_and_height(text, capsys):
    assert "--size" in refused(capsys, ("train", "lora"), f"--size={text}")


def test_one_number_is_a_square_size():
    assert parse(("train", "lora"), "--size", "64").size == (64, 64)
    assert parse(("train", "lora"), "--size", "96x64").size == (96, 64)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ([], (None, "area")),
        (["--size", "64"], ((64, 64), "crop")),
        (["--size", "64", "--resize", "area"], ((64, 64), "area")),
        (["--resize", "keep"], (None, "keep")),
    ],
)
def test_pictures_are_scaled_to_the_models_area_or_cropped_to_a_given_size(flags, wanted):
    own = job(parse(("train", "lora"), "--checkpoint", "a.safetensors", *flags))
    assert (own.size, own.resize) == wanted
