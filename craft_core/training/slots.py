"""What a training asks for beside its knobs: data slots, declared once by its registration.

A recipe lists the pictures, texts, LoRAs and files it learns from. From that list come the flags
of its command, the inputs of its node, and what a request without a page carries. `arrange` turns
the filled slots into the recipe's positional arguments; a recipe whose data only a host can make
names a `reader` of comfy_adapter/train instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..routing.presets import OF_MODEL
from ..types import Branch, Role
from .data import Dataset

AUTO_SETS = "auto"  # the layer sets that are read from LoRAs already trained
NO_FILE = "none"  # what a file slot holds where no file was chosen
TEXT, UNMATCHED = "fused_prompt", "allow_unmatched"
LAYERS, ROLE = "layer_sets", "role"


@dataclass(frozen=True)
class PictureSlot:
    """Captioned pictures.

    key: names the slot in requests, and is its flag. noun: what messages call them ("3 style
    images"); with it begin the node's inputs, except for "training". help, tooltip: of the flag
    and of the node's images. example: a caption that the node shows where none is written.
    captions_tooltip: of the node's captions, where it is not the usual one. expands: whether the
    page makes one of the choices in {a|b} of a caption.
    """

    key: str
    noun: str
    help: str
    tooltip: str
    example: str = ""
    captions_tooltip: str = ""
    required: bool = True
    expands: bool = False

    @property
    def images_input(self) -> str:
        return "images" if self.noun == "training" else f"{self.noun}_images"

    @property
    def captions_input(self) -> str:
        return "captions" if self.noun == "training" else f"{self.noun}_captions"

    @property
    def trigger_input(self) -> str:
        return "trigger" if self.noun == "training" else f"{self.noun}_trigger"

    @property
    def class_word_input(self) -> str:
        return "class_word" if self.noun == "training" else f"{self.noun}_class_word"


@dataclass(frozen=True)
class RoleSlot:
    """Whether content or style is learned."""

    help: str
    tooltip: str
    key: str = ROLE


@dataclass(frozen=True)
class LayerSlot:
    """Layer sets: a preset's key or lines of patterns. auto: whether `auto` is one of the presets,
    which reads LoRAs already trained. default: the preset that comes first."""

    auto: bool = False
    default: str = ""
    key: str = LAYERS

    @property
    def presets(self) -> tuple[str, ...]:
        keys = (AUTO_SETS, *OF_MODEL) if self.auto else OF_MODEL
        return tuple(sorted(keys, key=lambda key: key != self.default))


@dataclass(frozen=True)
class LoraSlot:
    """LoRAs that are not trained but learned about.

    check: of their strengths in order; CraftError where a training cannot begin with these.
    """

    tooltip: str
    check: Callable[[Sequence[float]], None]
    key: str = "branches"


@dataclass(frozen=True)
class TextSlot:
    """A text of one line or more."""

    key: str
    help: str
    tooltip: str
    example: str = ""


@dataclass(frozen=True)
class UnmatchedSlot:
    """The user's leave to go without what matches nothing."""

    help: str
    tooltip: str
    key: str = UNMATCHED


@dataclass(frozen=True)
class FileSlot:
    """A safetensors file in `folder` of the host's models, or none; what is there is offered."""

    key: str
    folder: str
    help: str
    tooltip: str


DataSlot = PictureSlot | RoleSlot | LayerSlot | LoraSlot | TextSlot | UnmatchedSlot | FileSlot


@dataclass(frozen=True)
class RoleLayers:
    """The role a LoRA plays and the layers it may act on, named for the file's metadata."""

    role: Role
    layers: frozenset[str]
    layer_set: str = ""


@dataclass(frozen=True)
class SlotContents:
    """The filled slots, read. pictures: by key, without the slots that were left empty. layers:
    of each role. layer_set: as it was asked for, in one line."""

    pictures: Mapping[str, Dataset]
    role: Role = "content"
    layers: Mapping[Role, frozenset[str]] = field(default_factory=dict)
    layer_set: str = ""
    base_model: str = ""

    def place(self, roles: Sequence[Role]) -> RoleLayers:
        """The chosen role on the layers of these roles."""
        layers = frozenset().union(*(self.layers[role] for role in roles))
        return RoleLayers(self.role, layers, self.layer_set)


@dataclass(frozen=True)
class NodeTexts:
    """What the page says of a training's node.

    node_id: public, so it stays for ever. title: in menus. aliases: what a search finds it by.
    tooltips: by id, of the inputs that every such node has and of its outputs, where they are not
    the usual ones.
    """

    node_id: str
    title: str
    description: str
    aliases: tuple[str, ...]
    tooltips: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSlots:
    """The data of a training.

    command: the word after `train` on the command line. usage: the least that must follow it.
    example: a whole command, without its first words, in lines. slots: in the order of the flags.
    save_name: what a result is called where the user does not say. folder: where it is saved in
    the output directory, which also says what it is: a LoRA, a basis, an encoder. node: None where
    several methods share a node with a menu of them. from_pictures: a second node, which asks for
    little more than pictures and trigger words (trigger.py). roles: of the LoRA that is saved;
    empty for that of the role slot, and both where one file holds both. state: what tells a stopped
    training's state from others of its name; {role} and {method} are filled in. crossed: two
    picture slots of which a command takes all pairs. limited: whether it may learn on a
    rank-limited backbone. samples: whether the recipe can show pictures while it learns: it has
    edits(), and shown(), the datasets whose captions they are of. summary: where several methods
    share the command. arrange: the recipe's
    positional arguments after the denoiser. reader: the key of a reader in comfy_adapter/train
    that makes them where `arrange` cannot.
    """

    command: str
    usage: str
    example: tuple[str, ...]
    slots: tuple[DataSlot, ...]
    save_name: str
    folder: str = "loras"
    node: NodeTexts | None = None
    from_pictures: NodeTexts | None = None
    state: str = ""
    roles: tuple[Role, ...] = ()
    crossed: tuple[str, ...] = ()
    limited: bool = True
    samples: bool = False
    summary: str = ""
    arrange: Callable[[SlotContents], tuple[Any, ...]] | None = None
    reader: str = ""

    def of(self, kind: type[DataSlot]) -> tuple[Any, ...]:
        """The slots of one kind."""
        return tuple(slot for slot in self.slots if isinstance(slot, kind))

    def slot(self, key: str) -> Any:
        return next(slot for slot in self.slots if slot.key == key)

    def state_part(self, role: str, method: str) -> str:
        """`state`, filled in; "" where states of a name need not be told apart."""
        return self.state.format(role=role, method=method)


def _any_prompt(knobs: Mapping[str, Any], given: bool) -> None:
    """Nothing is asked of a prompt."""


def _any_loras(branches: Sequence[Branch], metadata: Sequence[Mapping[str, str]]) -> None:
    """Nothing is asked of LoRAs."""


@dataclass(frozen=True)
class Needs:
    """What a training asks for beyond the ranges of its knobs; the traits of its registration.

    slots: its data. The others raise CraftError, and are asked before anything is encoded. prompt:
    of the knobs, and whether there is a fused prompt. loras: of the branches, and their files'
    metadata.
    """

    slots: DataSlots
    prompt: Callable[[Mapping[str, Any], bool], None] = _any_prompt
    loras: Callable[[Sequence[Branch], Sequence[Mapping[str, str]]], None] = _any_loras
