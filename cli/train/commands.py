"""`train ...`: a command for every training, made of the data slots and knobs it declares."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from ...craft_core.registry import Method
from ...craft_core.requests import TrainData
from ...craft_core.training import LEARNED, TRAINING
from ...craft_core.training.slots import (
    TEXT,
    DataSlots,
    FileSlot,
    LayerSlot,
    LoraSlot,
    PictureSlot,
    RoleSlot,
    TextSlot,
    UnmatchedSlot,
)
from ...craft_core.types import ROLES
from ..command import PROGRAM, Command, epilog
from ..knob_flags import add_knob_flags, add_method_flags, chosen_method, flag, knobs_of
from .common import (
    add_layer_sets_flag,
    add_picture_flags,
    add_size_flags,
    add_training_flags,
    captioned_pictures,
    job,
    layer_sets,
    run_and_report,
)
from .loras import add_lora_flags, experts


def commands() -> tuple[Command, ...]:
    """One for each word after `train`; methods that share a word have --method."""
    words: dict[str, list[Method]] = {}
    for method in (*TRAINING, *LEARNED):
        words.setdefault(method.traits.slots.command, []).append(method)
    return tuple(_command(methods) for methods in words.values())


def _command(methods: Sequence[Method]) -> Command:
    slots: DataSlots = methods[0].traits.slots
    assert all(method.traits.slots is slots for method in methods), "a command has one set of slots"

    def add_flags(parser: ArgumentParser) -> None:
        sized = False
        for slot in slots.slots:
            if isinstance(slot, PictureSlot | FileSlot) and not sized:
                add_size_flags(parser)
                sized = True
            _add_flag(parser, slot)
        if slots.summary:
            add_method_flags(parser, methods, "How the merge is learned.")
        else:
            add_knob_flags(parser, methods[0])
        add_training_flags(parser, slots.save_name, basis=slots.limited)

    def start(options: Namespace) -> None:
        if slots.summary:
            method, knobs = chosen_method(options, methods)
        else:
            method, knobs = methods[0], knobs_of(options, methods[0])
        data = filled(options, method)
        for slot in slots.of(LoraSlot):
            slot.check([expert.strength for expert in data.experts])
        method.traits.prompt(knobs, bool(data.choices.get(TEXT, "").strip()))
        own = job(options)
        run_and_report(options, lambda host, watch: host.train(own, data, knobs, watch))

    return Command(
        ("train", slots.command),
        slots.summary or methods[0].summary,
        slots.usage,
        add_flags,
        start,
        epilog((f"{PROGRAM} train {slots.command} {slots.example[0]}", *slots.example[1:])),
    )


def _add_flag(parser: ArgumentParser, slot: Any) -> None:
    match slot:
        case PictureSlot():
            add_picture_flags(parser, slot.key, slot.help, required=slot.required)
        case RoleSlot():
            parser.add_argument(flag(slot.key), choices=ROLES, required=True, help=slot.help)
        case LayerSlot():
            add_layer_sets_flag(parser, slot.presets)
        case LoraSlot():
            add_lora_flags(parser)
        case TextSlot():
            parser.add_argument(
                flag(slot.key), metavar="TEXT", action="append", default=[], help=slot.help
            )
        case UnmatchedSlot():
            parser.add_argument(flag(slot.key), action="store_true", help=slot.help)
        case FileSlot():
            parser.add_argument(flag(slot.key), metavar="FILE", default="", help=slot.help)


def filled(options: Namespace, method: Method) -> TrainData:
    """The method's data slots as the parsed flags fill them."""
    slots: DataSlots = method.traits.slots
    choices: dict[str, Any] = {}
    for slot in slots.slots:
        if isinstance(slot, LayerSlot):
            choices[slot.key] = layer_sets(options.layer_sets, slot.presets)
        elif isinstance(slot, TextSlot):
            choices[slot.key] = "\n".join(getattr(options, slot.key))
        elif not isinstance(slot, PictureSlot | LoraSlot):
            choices[slot.key] = getattr(options, slot.key)
    return TrainData(
        method.key,
        {slot.key: captioned_pictures(options, slot.key) for slot in slots.of(PictureSlot)},
        experts(options) if slots.of(LoraSlot) else (),
        choices,
    )


COMMANDS = commands()
