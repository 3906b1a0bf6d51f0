"""The inputs of a training's node, made of the data slots it declares, and what they bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from comfy_api.latest import io

from ...craft_core.errors import CraftError
from ...craft_core.registry import Method
from ...craft_core.training.sizes import AREA, RULES, Fit
from ...craft_core.training.slots import (
    ROLE,
    DataSlots,
    FileSlot,
    LayerSlot,
    LoraSlot,
    PictureSlot,
    RoleSlot,
    TextSlot,
    UnmatchedSlot,
)
from ...craft_core.training.trigger import EFFORTS, PLACE, captions_with_trigger
from ...craft_core.types import ROLES
from ..model.slot_files import offered
from ..train.data import caption_lines, check_texts
from ..train.precision import AUTO, CHOICES
from ..train.run import PageWatch
from ..train.train import Captioned, FilledSlots, How, ModelParts
from ..use.router import layer_set_text
from .notice import tell
from .sockets import BranchesSocket
from .widgets import layer_set_menu, one, single, single_or_none


def slot_inputs(slots: DataSlots, *names: str) -> list[io.Input]:
    """The inputs of these names: a picture slot has two, another slot one of its key."""
    made: dict[str, io.Input] = {}
    for slot in slots.slots:
        made |= {own.id: own for own in _inputs(slot)}
    return [made[name] for name in names]


def _inputs(slot: Any) -> list[io.Input]:
    match slot:
        case PictureSlot():
            optional = not slot.required
            images = io.Image.Input(slot.images_input, optional=optional, tooltip=slot.tooltip)
            return [images, _captions(slot)]
        case RoleSlot():
            return [io.Combo.Input(slot.key, options=list(ROLES), tooltip=slot.tooltip)]
        case LayerSlot():
            return [layer_set_menu(slot.key, auto=slot.auto, default=slot.default)]
        case LoraSlot():
            return [BranchesSocket.Input(slot.key, tooltip=slot.tooltip)]
        case TextSlot():
            return [
                io.String.Input(
                    slot.key, multiline=True, default="", dynamic_prompts=False,
                    placeholder=slot.example, tooltip=slot.tooltip,
                )
            ]  # fmt: skip
        case UnmatchedSlot():
            return [
                io.Boolean.Input(
                    slot.key, default=False, optional=True, advanced=True, tooltip=slot.tooltip
                )
            ]
        case FileSlot():
            return [io.Combo.Input(slot.key, options=offered(slot), tooltip=slot.tooltip)]
    raise AssertionError(f"no input for a {type(slot).__name__}")


def _captions(slot: PictureSlot) -> io.Input:
    usual = (
        "What the pictures show: a line for each, one line for all, or a list of texts. "
        f"For example '{slot.example}'. <c> and <s> may mark phrases; they are not learned."
    )
    shown = {"placeholder": slot.example} if slot.example else {}
    plain = {} if slot.expands else {"dynamic_prompts": False}
    return io.String.Input(
        slot.captions_input, multiline=True, default="", optional=not slot.required,
        tooltip=slot.captions_tooltip or usual, **shown, **plain,
    )  # fmt: skip


def source_inputs(texts: Mapping[str, str] = MappingProxyType({})) -> list[io.Input]:
    """texts: tooltips in place of the usual ones, by id."""
    usual = {
        "model": "The model to train on; it is not changed. For LoRAs best the rank-limited one.",
        "clip": "Encodes the captions.",
        "vae": "Encodes the pictures.",
    }
    kinds = (io.Model, io.Clip, io.Vae)
    return [
        kind.Input(name, tooltip=texts.get(name, text))
        for kind, (name, text) in zip(kinds, usual.items(), strict=True)
    ]


def save_name(default: str, folder: str) -> io.Input:
    return io.String.Input(
        "save_name", default=default,
        tooltip=f"Name in output/{folder}; counted up, never over an existing file.",
    )  # fmt: skip


def trigger_inputs(slot: PictureSlot) -> list[io.Input]:
    """Of a node that writes captions itself: the trigger, what it is, and own captions if any."""
    return [
        io.String.Input(
            slot.trigger_input, default="",
            tooltip="A rare word for what the pictures show, such as sks. Prompts use it later.",
        ),
        io.String.Input(
            slot.class_word_input, default="",
            tooltip="What it is in plain words, such as dog; for a style such as watercolor style.",
        ),
        io.String.Input(
            slot.captions_input, multiline=True, default="", dynamic_prompts=False,
            placeholder=f"{PLACE} on a beach",
            tooltip="May stay empty. Else a line for each picture, one line for all, or a list of "
            f"texts. {PLACE} stands for trigger and class word, marked by their role; without it "
            "they come first.",
        ),
    ]  # fmt: skip


def effort_input(recipe: Method) -> io.Input:
    steps = [f"{key}: {effort_steps(recipe, key)} steps" for key in EFFORTS]
    return io.Combo.Input(
        "effort", options=list(EFFORTS), default="normal",
        tooltip="\n".join(["How long it learns.", *steps]),
    )  # fmt: skip


def effort_steps(recipe: Method, effort: str) -> int:
    """The steps that an effort stands for."""
    (usual,) = [knob.default for knob in recipe.parameters if knob.name == "steps"]
    return round(usual * EFFORTS[effort])


def whole_inputs(recipe: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipe's own node is given, from what its node that asks for little is given."""
    slots: DataSlots = recipe.traits.slots
    inputs = dict(given)
    effort = one(inputs.pop("effort"), "effort")
    for slot in slots.of(PictureSlot):
        if slot.required:
            role = one(inputs[ROLE], ROLE) if slots.of(RoleSlot) else slot.key
            words = (one(inputs.pop(name), name) for name in _words_of(slot))
            lines = caption_lines(inputs[slot.captions_input])
            inputs[slot.captions_input] = captions_with_trigger(lines, *words, role)
    usual = {parameter.name: [parameter.default] for parameter in recipe.parameters}
    usual |= {"steps": [effort_steps(recipe, effort)], "precision": [AUTO]}
    return {**usual, "gradient_checkpointing": [True], **inputs}


def _words_of(slot: PictureSlot) -> tuple[str, str]:
    return slot.trigger_input, slot.class_word_input


def check_triggers(slots: DataSlots, given: Mapping[str, Any], menu: Any = "") -> bool | str:
    """What validate_inputs says of a node that writes captions itself; as check_inputs. given: the
    role, too, where the node has one."""
    chosen = single_or_none(given.get(ROLE))
    if chosen not in (None, *ROLES):
        return f"role: choose one of {', '.join(ROLES)}."
    captions = {}
    try:
        for slot in slots.of(PictureSlot):
            texts = given.get(slot.captions_input, ())
            words = [single_or_none(given.get(name)) for name in _words_of(slot)]
            role = chosen if slots.of(RoleSlot) else slot.key
            if slot.required and None not in (*texts, *words, role):
                captions[slot.captions_input] = captions_with_trigger(
                    caption_lines(texts), *words, role
                )
    except CraftError as error:
        return str(error)
    return check_inputs(slots, {"save_name": given["save_name"], **captions}, menu)


def how_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "precision", options=list(CHOICES), default=AUTO, advanced=True,
            tooltip="What the model computes in. auto: bf16 where the device has units for it, "
            "else fp32; a training that resumes goes on as it began. bf16 needs half the memory "
            "of fp32, and is many times slower on a device without units for it.",
        ),
        io.Boolean.Input(
            "gradient_checkpointing", default=True, advanced=True,
            tooltip="Keep less for the backward pass and compute it again: slower, much less "
            "memory, the same result.",
        ),
        resume_input(),
    ]  # fmt: skip


def resume_input() -> io.Input:
    return io.Boolean.Input(
        "resume", default=False,
        tooltip="Go on from where a training of this name was stopped, or towards more steps. "
        "Off: begin afresh.",
    )  # fmt: skip


def fit_inputs() -> list[io.Input]:
    """Optional and last, so that a graph saved without them opens as it was."""
    rules = [f"{key}: {what}" for key, what in RULES.items()]
    return [
        io.Int.Input(
            "size", default=0, min=0, max=16384, step=8, optional=True,
            tooltip="Width and height that pictures are made to fit, in pixels. 0: those that the "
            "model was made for, such as 1024 for SDXL; the report says them.",
        ),
        io.Combo.Input(
            "resize", options=list(RULES), default=AREA, optional=True,
            tooltip="\n".join(["How a picture is made to fit.", *rules]),
        ),
    ]  # fmt: skip


def sample_input(every: int = 0) -> io.Input:
    """Optional and last, as fit_inputs. every: steps, what a new node has."""
    return io.Int.Input(
        "sample_every", default=every, min=0, max=1_000_000, optional=True,
        tooltip="Steps from one sample picture of a caption to the next, shown beside the loss; "
        "one takes about as long as ten steps. 0: none. What is learned is the same.",
    )  # fmt: skip


def check_inputs(slots: DataSlots, given: Mapping[str, Any], menu: Any = "") -> bool | str:
    """What validate_inputs says of a training before it is queued.

    given: save_name and the captions, as the host hands them over. menu: layer_sets, which the
    host hands over asked for or not; None where the menu has no such entry.
    """
    if menu is None:
        return "layer_sets: choose an entry of the menu."
    captions = {
        slot.noun: given[slot.captions_input]
        for slot in slots.of(PictureSlot)
        if slot.captions_input in given
    }
    return check_texts(single_or_none(given["save_name"]), captions)


def filled_slots(
    slots: DataSlots, inputs: Mapping[str, Any]
) -> tuple[ModelParts, FilledSlots, dict[str, Any]]:
    """(the model and its parts, the slots, the other inputs) of what a node's execute is given."""
    rest = dict(inputs)
    pictures: dict[str, Captioned] = {}
    for slot in slots.of(PictureSlot):
        images: Sequence = rest.pop(slot.images_input, None) or ()
        captions: Sequence = rest.pop(slot.captions_input, None) or ()
        if images or slot.required:
            pictures[slot.key] = Captioned(images, captions)
    own = single(rest)
    source = ModelParts(own.pop("model"), own.pop("clip"), own.pop("vae"))
    loras = [lora for slot in slots.of(LoraSlot) for lora in own[slot.key]]
    choices = {
        slot.key: _choice(slot, own)
        for slot in slots.slots
        if not isinstance(slot, PictureSlot | LoraSlot)
    }
    return source, FilledSlots(pictures, loras, choices, _fit(own)), own


def _fit(own: Mapping[str, Any]) -> Fit:
    side = own.get("size", 0)
    return Fit(own.get("resize", AREA), (side, side) if side else None)


def _choice(slot: Any, own: Mapping[str, Any]) -> Any:
    if isinstance(slot, LayerSlot):
        return layer_set_text(own[slot.key])
    return own.get(slot.key, False) if isinstance(slot, UnmatchedSlot) else own[slot.key]


def knobs_in(method: Method, own: Mapping[str, Any]) -> dict[str, Any]:
    return {parameter.name: own[parameter.name] for parameter in method.parameters}


def how(own: Mapping[str, Any], shown: PageWatch) -> How:
    return How(
        own["save_name"], own["resume"], own["precision"], own["gradient_checkpointing"],
        shown.warn, shown.kept, own.get("sample_every", 0), shown.sample,
    )  # fmt: skip


def watch(node: type[io.ComfyNode], steps: int) -> PageWatch:
    return PageWatch(steps, partial(tell, node))
