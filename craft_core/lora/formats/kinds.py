"""The family of adapter kinds: what the keys of a file are called, and what its tensors do.

A key is a stem (which layer, see keys.py) and an ending (which part of the update). A kind is one
file of this folder: it declares the endings of its parts and which of them belong together, tells
the weight's shape, and makes an update of the tensors (types.LayerUpdate). A kind that no branch
can carry is declared too, with the reason (refused.py), so that a file can be refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import CraftError
from ...types import LayerUpdate
from ..peft_config import Stated
from .parts import AdaptedLayer, Parts, check_float

_LARGEST = 1 << 30  # numbers of a weight; those of the largest models have a fourth of it
ALPHA = "alpha"  # the part that every kind may have


def ending(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern})\Z")


@dataclass(frozen=True)
class AdapterKind:
    """A kind that is carried.

    name: in `inspect`, and in messages. endings: part -> the endings of its keys. forms: the sets
    of parts that make an update, besides alpha. made_of: the parts in words. shape: the tensors of
    a complete form by part -> the weight's shape as far as they tell it, a convolution's kernel
    may be flattened into the inputs. update: the update of a layer; it raises CraftError, naming
    keys and shapes, where the tensors do not fit.
    """

    name: str
    endings: Mapping[str, re.Pattern[str]]
    forms: Sequence[frozenset[str]]
    made_of: str
    shape: Callable[[Mapping[str, Tensor]], tuple[int, ...]]
    update: Callable[[Parts, AdaptedLayer, Stated], LayerUpdate]


@dataclass(frozen=True)
class RefusedKind:
    """A kind that is not carried. reason: what it does that a branch cannot."""

    name: str
    endings: re.Pattern[str]
    reason: str


@dataclass(frozen=True)
class Key:
    """A key taken apart. part: "alpha", or a part of a kind ("down", "hada_w1_a")."""

    stem: str
    part: str


class Kinds:
    """All kinds in the order in which they were declared."""

    def __init__(self) -> None:
        self._carried: list[AdapterKind] = []
        self._refused: list[RefusedKind] = []
        self._endings: dict[str, re.Pattern[str]] = {ALPHA: ending(r"(?:[._]lora)?\.alpha")}

    def carry(self, kind: AdapterKind) -> None:
        assert not kind.endings.keys() & self._endings.keys(), f"{kind.name} takes another's part"
        self._carried.append(kind)
        self._endings |= kind.endings

    def refuse(self, *kinds: RefusedKind) -> None:
        self._refused.extend(kinds)

    def __iter__(self) -> Iterator[AdapterKind]:
        return iter(self._carried)

    def split(self, key: str) -> Key | None:
        """The key's stem and part; None if its ending is of no kind that is carried."""
        for part, pattern in self._endings.items():
            found = pattern.search(key)
            if found:
                return Key(key[: found.start()], part)
        return None

    def refused(self, key: str) -> RefusedKind | None:
        """The kind that is not carried, read off the key's ending."""
        return next((kind for kind in self._refused if kind.endings.search(key)), None)

    def of(self, parts: Mapping[str, object]) -> AdapterKind | None:
        """The kind of which a layer's parts are a complete form; None if there is no such kind."""
        given = frozenset(parts) - {ALPHA}
        return next((kind for kind in self._carried if given in kind.forms), None)

    @property
    def names(self) -> str:
        """The kinds that are carried, in words."""
        return _listed([kind.name for kind in self._carried], "and")

    @property
    def made_of(self) -> str:
        """What the update of a layer can be made of, in words."""
        return _listed([kind.made_of for kind in self._carried], "or")


KINDS = Kinds()


def stem_of(key: str) -> str:
    """What names the layer in a key; the whole key if its ending is unknown."""
    split = KINDS.split(key)
    return split.stem if split else key


def shape_of(parts: Parts) -> tuple[int, ...] | None:
    """The weight's shape, from an update's tensors; None where they are incomplete.

    CraftError for a weight larger than any: small factors can stand for one that no memory holds.
    """
    kind = KINDS.of(parts)
    tensors = {part: tensor for part, (_, tensor) in parts.items() if part != ALPHA}
    if kind is None or any(tensor.ndim < 2 for tensor in tensors.values()):
        return None
    shape = kind.shape(tensors)
    if math.prod(shape) > _LARGEST:
        raise CraftError(
            f"The update of {next(iter(parts.values()))[0]} is for a weight of the shape {shape}",
            f"A layer's weight has up to {_LARGEST} numbers",
            "The file is damaged: get it again",
        )
    return shape


def build_update(parts: Parts, layer: AdaptedLayer, stated: Stated) -> tuple[LayerUpdate, str]:
    """The update of one layer from the file's tensors for it, and the name of its kind.

    stated: what the file's metadata says about its alpha and rank.
    Raises CraftError, naming keys and shapes, if the tensors do not make an update of that shape.
    """
    for key, tensor in parts.values():
        check_float(key, tensor)
    kind = KINDS.of(parts)
    if kind is None:
        raise incomplete(parts)
    return kind.update(parts, layer, stated), kind.name


def incomplete(parts: Parts) -> CraftError:
    return CraftError(
        f"For one layer the file holds just {', '.join(key for key, _ in parts.values())}",
        f"An update is {KINDS.made_of}",
        "The file is incomplete or damaged: get it again",
    )


def _listed(names: Sequence[str], conjunction: str) -> str:
    return f" {conjunction} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
