"""A node for every training recipe, made of what the recipe declares: its data, knobs and texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from comfy_api.latest import io

from ..comfy_adapter.engine.modules import model_layers
from ..comfy_adapter.model.basis import FOLDER as BASES
from ..comfy_adapter.model.basis import apply_basis, load_basis
from ..comfy_adapter.model.expert_encoder import FOLDER as ENCODERS
from ..comfy_adapter.model.lora_files import FOLDER as LORAS
from ..comfy_adapter.model.lora_files import BranchFile
from ..comfy_adapter.model.slot_files import stamp_of
from ..comfy_adapter.page.sockets import (
    CATEGORY,
    BranchesSocket,
    EncoderSocket,
    LoraModelSocket,
    LossMapSocket,
)
from ..comfy_adapter.page.training import (
    check_inputs,
    check_triggers,
    effort_input,
    filled_slots,
    fit_inputs,
    how,
    how_inputs,
    knobs_in,
    resume_input,
    sample_input,
    save_name,
    slot_inputs,
    source_inputs,
    trigger_inputs,
    watch,
    whole_inputs,
)
from ..comfy_adapter.page.widgets import knob_widgets, single_or_none
from ..comfy_adapter.train.start import start_training
from ..comfy_adapter.train.train import ModelParts, Trained, lora_state
from ..comfy_adapter.use.router import layer_set_text
from ..craft_core.registry import Method
from ..craft_core.routing.layer_sets import patterns_of_role
from ..craft_core.training import TRAINING, DataSlots
from ..craft_core.training.slots import (
    LAYERS,
    ROLE,
    FileSlot,
    LayerSlot,
    NodeTexts,
    PictureSlot,
    RoleSlot,
    UnmatchedSlot,
)

TRAIN = f"{CATEGORY}/training"


@dataclass(frozen=True)
class ResultSockets:
    """What a file of one sort adds to the node of a training that makes it.

    inputs: socket, id, usual tooltip of each. outputs, which come before loss_map and report:
    socket, id, label ("" for the id) and usual tooltip. given: the values of these outputs, from
    the slots, the model, the node's inputs and what was saved.
    """

    inputs: Sequence[tuple[Any, str, str]]
    outputs: Sequence[tuple[Any, str, str, str]]
    given: Callable[[DataSlots, ModelParts, Mapping[str, Any], Trained], tuple[Any, ...]]


def _lora(
    slots: DataSlots, source: ModelParts, own: Mapping[str, Any], trained: Trained
) -> tuple[Any, ...]:
    """The LoRA as a branch of its role; one that holds both roles is two branches of one file, each
    on the layers of its own role."""
    if slots.roles:
        layers = model_layers(source.model)
        sets = layer_set_text(own[LAYERS])
        new = [
            BranchFile(trained.name, role, 1.0, patterns_of_role(sets, role, layers))
            for role in slots.roles
        ]
    else:
        new = [BranchFile(trained.name, own[ROLE], 1.0)]
    return (*(own.get("branches") or ()), *new), lora_state(trained.path)


def _basis(
    slots: DataSlots, source: ModelParts, own: Mapping[str, Any], trained: Trained
) -> tuple[Any, ...]:
    return (apply_basis(source.model, load_basis(trained.name)),)


def _encoder(
    slots: DataSlots, source: ModelParts, own: Mapping[str, Any], trained: Trained
) -> tuple[Any, ...]:
    return (trained.name,)


RESULTS: Mapping[str, ResultSockets] = {
    LORAS: ResultSockets(
        [(BranchesSocket, "branches", "Branches to add this one to.")],
        [
            (BranchesSocket, "branches_out", "branches", "For the Router's extra_branches."),
            (LoraModelSocket, "lora_model", "", "For the host's Load LoRA Model."),
        ],
        _lora,
    ),
    BASES: ResultSockets(
        [],
        [(io.Model, "limited_model", "model", "The model with both subspaces projected out.")],
        _basis,
    ),
    ENCODERS: ResultSockets(
        [], [(EncoderSocket, "expert_encoder", "", "For the Router's expert_encoder.")], _encoder
    ),
}
"""By the folder of the output directory in which it is saved."""


_SAMPLE_EVERY = 100  # steps; what a new node has that asks for little


class TrainingNode(io.ComfyNode):
    """The node of one recipe; `training_node` makes them."""

    recipe: ClassVar[Method]

    @classmethod
    def define_schema(cls) -> io.Schema:
        slots: DataSlots = cls.recipe.traits.slots
        texts, result = slots.node, RESULTS[slots.folder]
        return _schema(texts, result, [
            *source_inputs(texts.tooltips),
            *slot_inputs(slots, *_first(slots)),
            save_name(slots.save_name, slots.folder),
            *slot_inputs(slots, *(slot.key for slot in slots.of(FileSlot))),
            *knob_widgets(cls.recipe),
            *how_inputs(),
            *slot_inputs(slots, *_last(slots)),
            *_result_inputs(texts, result),
            *fit_inputs(),
            *([sample_input()] if slots.samples else []),
        ])  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **given: Any) -> str:
        files = cls.recipe.traits.slots.of(FileSlot)
        return "\n".join(stamp_of(slot, single_or_none(given.get(slot.key))) for slot in files)

    @classmethod
    def execute(cls, model, clip, vae, *given: Any, **named: Any) -> io.NodeOutput:
        """The inputs by name. given: pictures and captions by position, those that must be given
        first."""
        slots: DataSlots = cls.recipe.traits.slots
        names = [*_pictures(slots), *_optional_pictures(slots)][: len(given)]
        inputs = {"model": model, "clip": clip, "vae": vae, **named}
        inputs |= dict(zip(names, given, strict=True))
        source, filled, own = filled_slots(slots, inputs)
        shown = watch(cls, own["steps"])
        knobs = knobs_in(cls.recipe, own)
        trained = start_training(source, cls.recipe, filled, knobs, how(own, shown), shown)
        made = RESULTS[slots.folder].given(slots, source, own, trained)
        return io.NodeOutput(*made, {"loss": trained.losses}, trained.report)


class FromPicturesNode(TrainingNode):
    """The node of one recipe that asks for little more than pictures and trigger words;
    `from_pictures_node` makes them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        slots: DataSlots = cls.recipe.traits.slots
        texts, result = slots.from_pictures, RESULTS[slots.folder]
        learned = [slot for slot in slots.of(PictureSlot) if slot.required]
        return _schema(texts, result, [
            *source_inputs(texts.tooltips),
            *slot_inputs(slots, *(slot.images_input for slot in learned)),
            *slot_inputs(slots, *(slot.key for slot in slots.of(RoleSlot))),
            *(own for slot in learned for own in trigger_inputs(slot)),
            *slot_inputs(slots, *(slot.key for slot in slots.of(LayerSlot))),
            effort_input(cls.recipe),
            save_name(slots.save_name, slots.folder),
            resume_input(),
            *_result_inputs(texts, result),
            *([sample_input(_SAMPLE_EVERY)] if slots.samples else []),
            *fit_inputs(),
        ])  # fmt: skip

    @classmethod
    def execute(cls, model, clip, vae, **named: Any) -> io.NodeOutput:
        return super().execute(model, clip, vae, **whole_inputs(cls.recipe, named))


def _schema(texts: NodeTexts, result: ResultSockets, inputs: list[io.Input]) -> io.Schema:
    own = texts.tooltips
    return io.Schema(
        node_id=texts.node_id,
        display_name=texts.title,
        category=TRAIN,
        hidden=[io.Hidden.unique_id],
        is_input_list=True,
        description=texts.description,
        search_aliases=list(texts.aliases),
        inputs=inputs,
        outputs=[
            *(
                socket.Output(name, display_name=label or None, tooltip=own.get(name, usual))
                for socket, name, label, usual in result.outputs
            ),
            LossMapSocket.Output("loss_map", tooltip="For the host's Plot Loss Graph."),
            io.String.Output("report", tooltip=own.get(
                "report", "The saved file, the losses, the settings.")),
        ],
    )  # fmt: skip


def _result_inputs(texts: NodeTexts, result: ResultSockets) -> list[io.Input]:
    return [
        socket.Input(name, optional=True, tooltip=texts.tooltips.get(name, usual))
        for socket, name, usual in result.inputs
    ]


def _first(slots: DataSlots) -> list[str]:
    """What must be given: pictures, then captions, then all else but files."""
    elsewhere = PictureSlot | FileSlot | UnmatchedSlot
    own = [slot.key for slot in slots.slots if not isinstance(slot, elsewhere)]
    return [*_pictures(slots), *own]


def _last(slots: DataSlots) -> list[str]:
    """What need not be given."""
    return [*_optional_pictures(slots), *(slot.key for slot in slots.of(UnmatchedSlot))]


def _pictures(slots: DataSlots) -> list[str]:
    """The images that must be given, then their captions."""
    pictures = [slot for slot in slots.of(PictureSlot) if slot.required]
    images = [slot.images_input for slot in pictures]
    return [*images, *(slot.captions_input for slot in pictures)]


def _optional_pictures(slots: DataSlots) -> list[str]:
    """The images that need not be given, each with its captions."""
    pictures = [slot for slot in slots.of(PictureSlot) if not slot.required]
    return [name for slot in pictures for name in (slot.images_input, slot.captions_input)]


def training_node(recipe: Method) -> type[TrainingNode]:
    """The node of a recipe.

    The host reads from the signature of validate_inputs what the node checks in its stead, so each
    has its own: the name, the captions that must be given, and the menu of layer sets.
    """
    slots: DataSlots = recipe.traits.slots
    checked = ["save_name", *(s.captions_input for s in slots.of(PictureSlot) if s.required)]

    def validate_inputs(cls: type, **given: Any) -> bool | str:
        menu = given.pop(LAYERS, None) if slots.of(LayerSlot) else ""
        return check_inputs(slots, {"save_name": (None,), **given}, menu)

    validate_inputs.__signature__ = _signature(checked, menu=bool(slots.of(LayerSlot)))
    return _node(TrainingNode, slots.node, recipe, validate_inputs)


def from_pictures_node(recipe: Method) -> type[FromPicturesNode]:
    """The node of a recipe that asks for little; it checks name, role, triggers and captions
    itself."""
    slots: DataSlots = recipe.traits.slots
    learned = [slot for slot in slots.of(PictureSlot) if slot.required]
    checked = ["save_name", *(slot.key for slot in slots.of(RoleSlot))]
    for slot in learned:
        checked += [slot.trigger_input, slot.class_word_input, slot.captions_input]

    def validate_inputs(cls: type, **given: Any) -> bool | str:
        menu = given.pop(LAYERS, None) if slots.of(LayerSlot) else ""
        return check_triggers(slots, {"save_name": (None,), **given}, menu)

    validate_inputs.__signature__ = _signature(checked, menu=bool(slots.of(LayerSlot)))
    return _node(FromPicturesNode, slots.from_pictures, recipe, validate_inputs)


def _node(kind: type, texts: NodeTexts, recipe: Method, validate: Callable[..., Any]) -> type:
    own = {"recipe": recipe, "validate_inputs": classmethod(validate), "__doc__": recipe.summary}
    return type(texts.node_id.removeprefix("CRAFT"), (kind,), {**own, "__module__": __name__})


def _signature(names: Sequence[str], *, menu: bool) -> inspect.Signature:
    """(cls, name=(None,), ..., *, layer_sets=None): keyword-only is what the host hands over
    without being asked."""
    usual, last = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("cls", usual)]
    parameters += [inspect.Parameter(name, usual, default=(None,)) for name in names]
    if menu:
        parameters.append(inspect.Parameter(LAYERS, last, default=None))
    return inspect.Signature(parameters)


TRAINING_NODES = {
    recipe.key: training_node(recipe) for recipe in TRAINING if recipe.traits.slots.node
}
FROM_PICTURES = {
    recipe.key: from_pictures_node(recipe)
    for recipe in TRAINING
    if recipe.traits.slots.from_pictures
}
