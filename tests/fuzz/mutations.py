"""Damaged inputs: from a sound one, by hypothesis, which also makes those that fail smaller."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

Path = tuple[Any, ...]
WORDS = (
    "", "\0", "\x1b[31m", "\ud800", "\u202e", "é", "猫" * 300, "a" * 5000, " " * 2000, "\n" * 500,
    "..", "/", "*", "**", "0..9", "9..0", "0..999999999", "-1", "1e999", "NaN", "inf", "9" * 400,
    "(", ")", "[", "]", "{", "}", "|", "(\\w+\\.?)+!", ".*" * 50, "a{999}", "^$", "\\", ",", "=",
    ":", "<c>", "</c>", "<s>", "</s>", "<", "#", "@", "%s", "null", "true", '"', "content: ",
    "style: ", "input_blocks.0", "nan 1", "0 0,", ".lora_A.weight", ".alpha", "text_encoder.",
)  # fmt: skip
SIZES = (0, -1, 1, 2, 1.5, 1 << 31, 1 << 62, 10**300, math.nan, math.inf, -math.inf)
VALUES = (None, True, False, *SIZES, "", "a", "\0", [], {}, [[]], [None], {"": None}, [[[1]]])


def texts() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(WORDS), st.text(max_size=20))


def values() -> st.SearchStrategy[Any]:
    """What a part of JSON may be in place of what it should be."""
    plain = st.one_of(st.sampled_from(VALUES), texts(), st.integers(), st.floats(allow_nan=True))
    return st.recursive(
        plain,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(texts(), inner, max_size=3)
        ),
        max_leaves=5,
    )


def places(value: Any, at: Path = ()) -> Iterator[Path]:
    """Where every part of a JSON value is."""
    yield at
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, inner in inside:
        yield from places(inner, (*at, key))


def changed(value: Any, at: Path, change: Callable[[Any, Any], None]) -> Any:
    """A copy in which `change` was done to the part at a place: change(what holds it, its key)."""
    copy = json.loads(json.dumps(value))
    holder = copy
    for key in at[:-1]:
        holder = holder[key]
    change(holder, at[-1])
    return copy


@st.composite
def jsons(draw: Callable[[Any], Any], sound: Any) -> Any:
    """The sound value with one to three parts changed, left out, twice there, or renamed."""
    value = sound
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(list(places(value))))
        how = draw(st.sampled_from(("other", "out", "word", "twice", "renamed")))
        new = draw(values() if how == "other" else texts())
        if not at:
            value = new if how == "other" else value
            continue

        def change(holder: Any, key: Any, how: str = how, new: Any = new) -> None:
            if how == "out":
                del holder[key]
            elif how == "twice":
                if isinstance(holder, list):
                    holder.insert(key, holder[key])
                else:
                    holder[new] = holder[key]
            elif how == "renamed" and isinstance(holder, dict):
                holder[new] = holder.pop(key)
            elif how == "word" and isinstance(holder[key], str):
                holder[key] = holder[key][: len(new)] + new + holder[key][len(new) :]
            else:
                holder[key] = new

        value = changed(value, at, change)
    return value


@st.composite
def cut_up(draw: Callable[[Any], Any], sound: bytes, piece: st.SearchStrategy[bytes]) -> bytes:
    """The sound bytes with one to four pieces put in, taken out, replaced or repeated."""
    content = sound
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(len(content), start + 40)))
        how = draw(st.sampled_from(("in", "out", "replaced", "repeated", "ended")))
        if how == "in":
            content = content[:start] + draw(piece) + content[start:]
        elif how == "out":
            content = content[:start] + content[stop:]
        elif how == "replaced":
            content = content[:start] + draw(piece) + content[stop:]
        elif how == "repeated":
            times = draw(st.sampled_from((2, 3, 50)))
            content = content[:start] + content[start:stop] * times + content[stop:]
        else:
            content = content[:start]
    return content


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def damaged_text(sound: str) -> st.SearchStrategy[bytes]:
    return st.one_of(
        cut_up(_encoded(sound), texts().map(_encoded)),
        cut_up(_encoded(sound), st.binary(max_size=8)),
    )


def damaged_json(sound: Any) -> st.SearchStrategy[bytes]:
    text = json.dumps(sound)
    return st.one_of(jsons(sound).map(lambda value: json.dumps(value).encode()), damaged_text(text))


_SHAPES = st.lists(st.sampled_from((0, 1, 2, 3, 8, 64)), max_size=5).filter(
    lambda shape: math.prod(shape) <= 1 << 18  # the files are made in memory
)
SIZE_OF = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1,
    "I16": 2, "I32": 4, "I64": 8, "BOOL": 1, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class SoundFile:
    """A safetensors file. tensors: dtype and shape of each. metadata: tables in it are written as
    JSON texts. numbers: of the tensors in their order; ones where there are none."""

    tensors: dict[str, tuple[str, Sequence[int]]]
    metadata: dict[str, Any] = field(default_factory=dict)
    numbers: bytes = b""

    @staticmethod
    def of_shapes(shapes: dict[str, Sequence[int]], metadata: dict[str, Any]) -> SoundFile:
        return SoundFile({name: ("F16", shape) for name, shape in shapes.items()}, metadata)

    @staticmethod
    def of(content: bytes) -> SoundFile:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        metadata = {key: _opened(text) for key, text in header.pop("__metadata__", {}).items()}
        tensors = {name: (one["dtype"], one["shape"]) for name, one in header.items()}
        return SoundFile(tensors, metadata, content[start:])

    @property
    def size(self) -> int:
        return sum(SIZE_OF[kind] * math.prod(shape) for kind, shape in self.tensors.values())

    def header(self) -> dict[str, Any]:
        entries: dict[str, Any] = {"__metadata__": dict(self.metadata)}
        at = 0
        for name, (kind, shape) in self.tensors.items():
            size = SIZE_OF[kind] * math.prod(shape)
            entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        return entries

    def data(self) -> bytes:
        return self.numbers or b"\0\x3c" * (self.size // 2) + b"\0" * (self.size % 2)

    def written(self, header: Any = None, length: int | None = None) -> bytes:
        """The file, or one with another header or another length of it."""
        header = self.header() if header is None else header
        if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
            inner = {
                key: json.dumps(value) if isinstance(value, dict | list) else value
                for key, value in header["__metadata__"].items()
            }
            header = {**header, "__metadata__": inner}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        start = len(text) if length is None else length
        return start.to_bytes(8, "little") + text + self.data()


def _opened(text: str) -> Any:
    """JSON inside a text of metadata as its value, so that its parts are changed one by one."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict | list) else text


@st.composite
def damaged_file(draw: Callable[[Any], Any], sound: SoundFile) -> bytes:
    """A file whose header, metadata, shapes, types, numbers or bytes are not as they should be."""
    how = draw(
        st.sampled_from(("shapes", "types", "metadata", "header", "bytes", "length", "numbers"))
    )
    if how in ("shapes", "types"):  # a sound file, of other tensors
        tensors = dict(sound.tensors)
        for name in draw(st.lists(st.sampled_from(list(tensors)), min_size=1, max_size=3)):
            kind, shape = tensors.get(name, ("F16", ()))
            if how == "types":
                tensors[name] = (draw(st.sampled_from(list(SIZE_OF))), shape)
                continue
            new = draw(_SHAPES)
            if draw(st.booleans()):
                tensors.pop(name, None)
            tensors[draw(st.one_of(st.just(name), texts()))] = (kind, new)
        return SoundFile(tensors, sound.metadata).written()
    if how == "metadata" and sound.metadata:
        return sound.written({**sound.header(), "__metadata__": draw(jsons(sound.metadata))})
    if how == "header":
        return sound.written(draw(jsons(sound.header())))
    if how == "length":
        length = draw(st.sampled_from((0, 1, 7, 1 << 25, 1 << 36, (1 << 64) - 1)))
        return sound.written(length=length)
    whole = sound.written()
    if how == "numbers":  # NaN, infinity, large ones and zeros among the tensors
        at = len(whole) - 2 * draw(st.integers(1, max(1, sound.size // 2)))
        bad = draw(st.sampled_from((b"\0\x7e", b"\0\x7c", b"\xff\x7b", b"\0\0", b"\xff\xff")))
        return whole[:at] + bad + whole[at + 2 :]
    return draw(cut_up(whole, st.binary(max_size=8)))
