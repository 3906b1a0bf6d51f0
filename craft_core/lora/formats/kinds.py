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
from .parts import AdaptedLayer, Parts, check_float, check_made, misfit

_LARGEST = 1 << 30  # numbers of a weight; those of the largest models have a fourth of it
_LONGEST_ENDING = 320  # letters; the longest has a trainer's own word in it, such as ".default"
_MOST_DOTS = 5  # in an ending; the most is three, and a pattern may begin within a word
ALPHA = "alpha"  # the part that every kind may have


def ending(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern})\Z")


def _last_words(key: str) -> int:
    """Where its last words begin, in which an ending is sought: neither a key's length nor its dots
    choose the time."""
    last = key[-_LONGEST_ENDING:]
    words = last.rsplit(".", _MOST_DOTS)
    return len(key) - len(last) + (len(words[0]) if len(words) > _MOST_DOTS else 0)


def _at_end(pattern: re.Pattern[str], key: str, start: int) -> re.Match[str] | None:
    whole = pattern.pattern.startswith(r"\A")
    return pattern.match(key) if whole else pattern.search(key, start)


@dataclass(frozen=True)
class AdapterKind:
    """A kind that is carried.

    name: in `inspect`, and in messages. endings: part -> the endings of its keys; of a pattern with
    a group, the group is the ending. forms: the sets of parts that make an update, besides alpha.
    made_of: the parts in words. shape: the tensors of a complete form by part -> the weight's shape
    as far as they tell it, from the outputs on; a convolution's kernel may be flattened into the
    inputs. None for tensors that are no such parts.
    update: the update of a layer; it raises CraftError, naming keys and shapes, where the
    tensors do not fit. axes: how many its tensors have at least; with one, it can change a
    normalisation, whose weight is (n,). of_bias: whether it changes the bias of its layer, beside a
    kind that changes the weight.
    """

    name: str
    endings: Mapping[str, re.Pattern[str]]
    forms: Sequence[frozenset[str]]
    made_of: str
    shape: Callable[[Mapping[str, Tensor]], tuple[int, ...] | None]
    update: Callable[[Parts, AdaptedLayer, Stated], LayerUpdate]
    axes: int = 2
    of_bias: bool = False


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
        start = _last_words(key)
        for part, pattern in self._endings.items():
            found = _at_end(pattern, key, start)
            if found:
                return Key(key[: found.start(pattern.groups)], part)
        return None

    def refused(self, key: str) -> RefusedKind | None:
        """The kind that is not carried, read off the key's ending."""
        start = _last_words(key)
        return next((one for one in self._refused if _at_end(one.endings, key, start)), None)

    def of(self, parts: Mapping[str, object]) -> tuple[AdapterKind, ...]:
        """The kinds whose complete forms a layer's parts are: one of the weight, one of the bias,
        or both; none if something lacks, or is too much."""
        given = frozenset(parts) - {ALPHA}
        of_bias = [kind for kind in self._carried if kind.of_bias and given & kind.endings.keys()]
        bias_parts = frozenset(part for kind in of_bias for part in kind.endings) & given
        own = [(of_bias, bias_parts)] if of_bias else []
        if given - bias_parts:
            weight = [kind for kind in self._carried if given - bias_parts in kind.forms]
            own = [(weight, given - bias_parts), *own]
        if not all(len(kinds) == 1 and form in kinds[0].forms for kinds, form in own):
            return ()
        return tuple(kinds[0] for kinds, _ in own)

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
    """The weight's shape as an update's tensors tell it, of a bias alone (out,), () where they
    tell nothing of it; None where they are incomplete.

    CraftError for a weight larger than any: small factors can stand for one that no memory holds.
    """
    kinds = KINDS.of(parts)
    if not kinds:
        return None
    beside = {part for kind in kinds[1:] for part in kind.endings} | {ALPHA}
    tensors = {part: tensor for part, (_, tensor) in parts.items() if part not in beside}
    few = (kind for kind in KINDS if kind.axes == 1)
    flat = {part for kind in few for part in kind.endings}
    if any(tensor.ndim < 2 for part, tensor in tensors.items() if part not in flat):
        return None
    shape = kinds[0].shape(tensors)
    if shape is not None and math.prod(shape) > _LARGEST:
        raise CraftError(
            f"The update of {next(iter(parts.values()))[0]} is for a weight of the shape {shape}",
            f"A layer's weight has up to {_LARGEST} numbers",
            "The file is damaged: get it again",
        )
    return shape


def build_updates(
    parts: Parts, layer: AdaptedLayer, stated: Stated
) -> list[tuple[LayerUpdate, AdapterKind]]:
    """The updates of one layer from the file's tensors for it, each with its kind: that of its
    weight, that of its bias, or both.

    stated: what the file's metadata says about its alpha and rank.
    Raises CraftError, naming keys and shapes, if the tensors do not make an update of that shape.
    """
    for key, tensor in parts.values():
        check_float(key, tensor)
    kinds = KINDS.of(parts)
    if not kinds:
        raise incomplete(parts)
    for kind in kinds:
        if not layer.inputs and kind.axes > 1:
            raise misfit(*next(parts[part] for part in kind.endings if part in parts), layer)
    try:
        built = [(kind.update(parts, layer, stated), kind) for kind in kinds]
    except IndexError as error:  # a tensor lacks an axis
        raise misfit(*min(parts.values(), key=lambda part: part[1].ndim), layer) from error
    made = sum(tensor.numel() for update, _ in built for tensor in update.tensors().values())
    check_made(made, *parts.values(), kernel=math.prod(layer.inputs[1:]))
    return built


def incomplete(parts: Parts) -> CraftError:
    return CraftError(
        f"For one layer the file holds just {', '.join(key for key, _ in parts.values())}",
        f"An update is {KINDS.made_of}",
        "The file is incomplete or damaged: get it again",
    )


def _listed(names: Sequence[str], conjunction: str) -> str:
    return f" {conjunction} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
