"""PEFT's rank and alpha patterns, matched in a time that no file can choose.

PEFT reads a pattern as a regular expression for the end of a module's name, at its start or behind
a dot: (.*\\.)?(pattern)$. What PEFT and diffusers write are names of modules, now and then with
alternatives or a wildcard. A plain name is looked up in a table, and so is one from ^ on, which
diffusers writes where layers have different ranks. The others are simulated side by
side as one automaton, whose places are the bits of a number (Navarro and Raffinot 2002, "Flexible
Pattern Matching in Strings", ch. 4): one pass over a name decides, nothing is tried twice.

Known are letters, . \\. \\d \\w \\s and their capitals, [classes], the repeats * + ? {n} {n,m} of
one of these, alternatives a|b, groups of alternatives that are not repeated, ^ at the start and $
at the end. In a plain name a dot is that dot; to PEFT it is any character.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

LONGEST = 500  # characters of a pattern
MOST = 50_000  # patterns; the largest models have some thousand layers
LARGEST = 2000  # places of all that are no plain names, repeats and alternatives written out
MOST_STEPS = 20_000  # different steps of the automaton; patterns of real files need some hundred
MOST_TESTS = 400_000  # of characters by places; real files have some thousand
MOST_CHARACTERS = 1_000_000  # of different names; of the largest models half a million
MOST_WAYS = 500  # in which dots are placed in names from ^ on; in those of a model, some dozens
MOST_WRITTEN = 60_000  # characters of all that are no plain names
_DEEPEST = 20  # groups inside one another
_PLAIN = re.compile(r"[\w-]+(?:\\?\.[\w-]+)*", re.ASCII)
_REPEAT = re.compile(r"\{(\d{1,3})(?:,(\d{1,3}))?\}", re.ASCII)
_KINDS: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda character: character.isalnum() or character == "_",
    "s": str.isspace,
    "D": lambda character: not character.isdecimal(),
    "W": lambda character: not (character.isalnum() or character == "_"),
    "S": lambda character: not character.isspace(),
}

_Value = TypeVar("_Value")
_Test = Callable[[str], bool]


class NotMatched(ValueError):
    """Patterns that are not matched, and why."""


_TOO_MANY = "its patterns leave too many ways to match a name"


@dataclass(frozen=True)
class _Atom:
    """One place of a pattern. text: as it was written; equal texts accept the same characters."""

    text: str
    accepts: _Test
    optional: bool = False
    repeated: bool = False


@dataclass(frozen=True)
class _Row:
    """Atoms one after another. anchored: only from the start of a name. ended: nothing follows."""

    atoms: tuple[_Atom, ...] = ()
    anchored: bool = False
    ended: bool = False


class Patterns(Generic[_Value]):
    """A table of patterns; the first that matches a name gives its value.

    Raises NotMatched for a pattern that is not known, and for too many.
    """

    def __init__(self, table: Mapping[str, _Value]) -> None:
        if len(table) > MOST:
            raise NotMatched(f"it has {len(table)} patterns, up to {MOST} are read")
        self._values = list(table.values())
        self._plain: dict[str, int] = {}
        self._whole = _WholeNames()
        rows: list[tuple[int, _Row]] = []
        size = written = 0
        for number, pattern in enumerate(table):
            if len(pattern) > LONGEST:
                raise NotMatched(
                    f"a pattern has {len(pattern)} characters, up to {LONGEST} are read"
                )
            if _PLAIN.fullmatch(pattern):
                self._plain.setdefault(pattern.replace("\\", ""), number)
                continue
            if pattern.startswith("^") and _PLAIN.fullmatch(pattern[1:].removesuffix("$")):
                self._whole.add(pattern[1:].removesuffix("$"), number)
                continue
            written += len(pattern)
            if written > MOST_WRITTEN:
                raise NotMatched(f"its patterns have more than {MOST_WRITTEN} characters")
            found = _Reader(pattern).rows()
            size += _size(found)
            if size > LARGEST:
                raise NotMatched(f"its patterns have more than {LARGEST} places")
            rows += [(number, row) for row in found]
        self._longest = max(map(len, self._plain), default=0)
        self._automaton = _Automaton(rows)

    def first(self, name: str, default: _Value | None) -> _Value | None:
        """The value of the first pattern that matches. NotMatched if that takes too many steps."""
        found = [self._plain[end] for end in self._ends(name) if end in self._plain]
        others = (self._whole.first(name), self._automaton.first(name))
        found += [number for number in others if number is not None]
        return self._values[min(found)] if found else default

    def _ends(self, name: str) -> Iterator[str]:
        """The name and what follows its dots, no longer than the longest plain name."""
        if len(name) <= self._longest:
            yield name
        at = name.find(".", max(0, len(name) - self._longest - 1))
        while at >= 0:
            yield name[at + 1 :]
            at = name.find(".", at + 1)


class _WholeNames:
    """Plain names from ^ on, as diffusers writes them. A dot of theirs is any character, so they
    are looked up without their dots, for each way in which those are placed."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}  # by length, by dots
        self._ways = 0

    def add(self, pattern: str, number: int) -> None:
        parts = pattern.split("\\.")  # an escaped dot is that dot
        name = ".".join(parts)
        escaped = set(itertools.accumulate(len(part) + 1 for part in parts[:-1]))
        dots = tuple(at for at, sign in enumerate(name) if sign == "." and at + 1 not in escaped)
        tables = self._tables.setdefault(len(name), {})
        if dots not in tables:
            self._ways += 1
            if self._ways > MOST_WAYS:
                raise NotMatched(f"its names have dots in more than {MOST_WAYS} different ways")
        tables.setdefault(dots, {}).setdefault(_without(name, dots), number)

    def first(self, name: str) -> int | None:
        if "\n" in name:
            return None
        tables = self._tables.get(len(name), {})
        found = (table.get(_without(name, dots)) for dots, table in tables.items())
        return min((number for number in found if number is not None), default=None)


def _without(name: str, places: Sequence[int]) -> str:
    ends = zip((0, *(at + 1 for at in places)), (*places, len(name)), strict=True)
    return "\n".join(name[start:end] for start, end in ends)


class _Automaton:
    """Rows side by side in one number: a bit before each row, and one behind each of its atoms,
    which is set while the name so far leads there."""

    def __init__(self, rows: Sequence[tuple[int, _Row]]) -> None:
        self._starts = self._free = self._optional = self._repeated = self._last = 0
        self._pattern_of: dict[int, int] = {}  # a row's last place -> its pattern
        self._tests: dict[str, tuple[_Test, int]] = {}  # text of atoms -> test, their places
        self._accepting: dict[str, int] = {}  # character -> the places that accept it
        self._steps: dict[int, dict[str, int]] = {}
        self._found: dict[str, int | None] = {}  # by name
        self._step_count = self._character_count = 0
        place = 0
        for pattern, row in rows:
            self._starts |= 1 << place
            self._free |= (not row.anchored) << place
            for atom in row.atoms:
                place += 1
                self._optional |= atom.optional << place
                self._repeated |= atom.repeated << place
                test, places = self._tests.get(atom.text, (atom.accepts, 0))
                self._tests[atom.text] = test, places | 1 << place
            self._last |= 1 << place
            self._pattern_of[place] = pattern
            place += 1

    def first(self, name: str) -> int | None:
        """The first pattern that matches the whole name or its end behind a dot, by number."""
        if not self._last:
            return None
        if name not in self._found:
            self._found[name] = self._matched(name)
        return self._found[name]

    def _matched(self, name: str) -> int | None:
        self._character_count += len(name)
        if self._character_count > MOST_CHARACTERS:
            raise NotMatched(_TOO_MANY)
        places = self._past_optional(self._starts)
        for character in name:
            steps = self._steps.setdefault(places, {})
            if character not in steps:
                steps[character] = self._step(places, character)
            places = steps[character]
        ends = places & self._last
        return self._pattern_of[(ends & -ends).bit_length() - 1] if ends else None

    def _step(self, places: int, character: str) -> int:
        self._step_count += 1
        if self._step_count > MOST_STEPS:
            raise NotMatched(_TOO_MANY)
        after = (places << 1) | (places & self._repeated)
        after &= self._accept(character) if after else 0
        return self._past_optional(after | (self._free if character == "." else 0))

    def _accept(self, character: str) -> int:
        if character not in self._accepting:
            if (len(self._accepting) + 1) * len(self._tests) > MOST_TESTS:
                raise NotMatched(_TOO_MANY)
            places = 0
            for test, of_test in self._tests.values():
                if test(character):
                    places |= of_test
            self._accepting[character] = places
        return self._accepting[character]

    def _past_optional(self, places: int) -> int:
        """With the places behind the optional atoms that follow: a sum carries through a run of
        ones, so one addition passes any number of them."""
        first = (places << 1) & self._optional
        return places | first | (self._optional & ~(self._optional + first))


class _Reader:
    """Reads one pattern from left to right, its alternatives written out as rows."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at, self._depth = pattern, 0, 0

    def rows(self) -> list[_Row]:
        found = self._alternatives()
        if self._next:
            raise self._unknown("a bracket without its opening one")
        return found

    @property
    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        taken = self._pattern.startswith(text, self._at)
        self._at += len(text) if taken else 0
        return taken

    def _any(self) -> str:
        if not self._next:
            raise self._unknown("no end")
        self._at += 1
        return self._pattern[self._at - 1]

    def _unknown(self, what: str) -> NotMatched:
        return NotMatched(f"the pattern {self._pattern!r} has {what}")

    def _alternatives(self) -> list[_Row]:
        found = self._row()
        while self._take("|"):
            found = self._checked([*found, *self._row()])
        return found

    def _row(self) -> list[_Row]:
        found = [_Row()]
        while self._next and self._next not in "|)":
            items = self._item()
            if len(found) * len(items) > LARGEST:
                raise self._unknown(f"more than {LARGEST} alternatives")
            found = self._checked([self._joined(one, item) for one in found for item in items])
        return found

    def _joined(self, one: _Row, item: _Row) -> _Row:
        if item.anchored and one.atoms:
            raise self._unknown("^ behind its start")
        if one.ended and item.atoms:
            raise self._unknown("$ before its end")
        anchored, ended = one.anchored or item.anchored, one.ended or item.ended
        return _Row((*one.atoms, *item.atoms), anchored, ended)

    def _checked(self, rows: list[_Row]) -> list[_Row]:
        if _size(rows) > LARGEST:
            raise self._unknown(f"more than {LARGEST} places")
        return rows

    def _item(self) -> list[_Row]:
        """A group, an anchor, or an atom with its repeat."""
        if self._take("^"):
            found = [_Row(anchored=True)]
        elif self._take("$"):
            found = [_Row(ended=True)]
        elif self._take("("):
            found = self._group()
        else:
            return [_Row(self._repeats(self._atom()))]
        if self._next and self._next in "*+?{":
            raise self._unknown("a repeated group or anchor")
        return found

    def _group(self) -> list[_Row]:
        if self._next == "?" and not self._take("?:"):
            raise self._unknown("a group that is more than alternatives")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._unknown("too many groups inside one another")
        found = self._alternatives()
        if not self._take(")"):
            raise self._unknown("an open group")
        self._depth -= 1
        return found

    def _repeats(self, atom: _Atom) -> tuple[_Atom, ...]:
        counted = _REPEAT.match(self._pattern, self._at)
        if counted is not None:
            self._at = counted.end()
            least, most = int(counted[1]), int(counted[2] or counted[1])
            if most < least:
                raise self._unknown("a repeat that counts down")
            found = (atom,) * least + (replace(atom, optional=True),) * (most - least)
        elif self._next and self._next in "*+?":
            sign = self._any()
            found = (replace(atom, optional=sign in "*?", repeated=sign in "*+"),)
        else:
            return (atom,)
        self._take("?")  # as few as possible: the same names match
        if self._next and self._next in "*+?{":
            raise self._unknown("a repeat of a repeat")
        return found

    def _atom(self) -> _Atom:
        start = self._at
        character = self._any()
        if character == "[":
            test = self._class()
        elif character == "\\":
            test = self._escaped(self._any())
        elif character == ".":
            test = lambda given: given != "\n"  # noqa: E731
        elif character in "*+?{}":
            raise self._unknown(f"{character} with nothing to repeat")
        else:
            test = character.__eq__
        return _Atom(self._pattern[start : self._at], test)

    def _escaped(self, character: str) -> _Test:
        if character in _KINDS:
            return _KINDS[character]
        if character.isalnum():
            raise self._unknown(f"the unknown sign \\{character}")
        return character.__eq__

    def _class(self) -> _Test:
        """The characters of a class; its opening bracket is read."""
        wanted, start = not self._take("^"), self._at
        signs: set[str] = set()
        kinds: set[_Test] = set()
        spans: list[tuple[str, str]] = []
        while self._at == start or self._next != "]":
            character = self._any()
            if character == "\\":
                sign = self._any()
                test = self._escaped(sign)
                if sign in _KINDS:
                    kinds.add(test)
                else:
                    signs.add(sign)
                if self._spans():
                    raise self._unknown("a range from an escaped sign")
            elif self._spans():
                self._any()
                spans.append(self._span(character, self._any()))
            else:
                signs.add(character)
        self._any()
        spans = _joined_spans(spans)
        firsts = [first for first, _ in spans]

        def test(given: str) -> bool:
            """In a time that does not depend on how much the class holds."""
            at = bisect_right(firsts, given) - 1
            within = at >= 0 and given <= spans[at][1]
            return (within or given in signs or any(kind(given) for kind in kinds)) is wanted

        return test

    def _spans(self) -> bool:
        return self._next == "-" and self._pattern[self._at + 1 : self._at + 2] != "]"

    def _span(self, first: str, last: str) -> tuple[str, str]:
        if last == "\\" or first > last:
            raise self._unknown(f"the unknown range {first}-{last}")
        return first, last


def _joined_spans(spans: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """(first, last character) of ranges, those that overlap made one, in order."""
    joined: list[tuple[str, str]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined


def _size(rows: Sequence[_Row]) -> int:
    return sum(len(row.atoms) + 1 for row in rows)
