"""Markers in a prompt say which words are content and which are style, and switch the branches.

CRAFT-LoRA (2026), arXiv:2602.18936, Sec. 3.4.1: the text encoder sees the prompt without its
markers (Eq. 6), the marked phrases are the content and the style condition, and a branch whose
marker is absent is off (Eq. 8).

    <c>a red car</c> in <s>watercolor style</s>      a phrase between a pair
    A dog <c> in watercolor style <s>                a lone marker: the text before it, back to
                                                     the previous marker or the start

Our rules where the paper has none. A marker is paired if the next marker of its kind closes it.
Letter case does not matter (<C> is <c>). A role may have several phrases. Phrases neither nest
nor cross, and none is empty. Removing markers touches only the whitespace beside them: none
stays at the start or end of a line, after an opening bracket, or before punctuation, one space
stays elsewhere, and a lone marker between two words never joins them. Line breaks stay.
Chinese and Japanese punctuation counts as its Latin counterpart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from ..messages import (
    EMPTY_PHRASE,
    MARKER_INSIDE,
    MARKER_LEFT,
    NOT_CLOSED,
    NOTHING_TO_CLOSE,
    TOO_MANY_MARKERS,
    UNCLOSED,
)
from ..types import Role

MOST_MARKERS = 1000

_KINDS: dict[str, Role] = {"c": "content", "s": "style"}
_MARKER = re.compile(r"<(?P<close>/?)(?P<kind>[cCsS])>")
_SPACES = "".join(filter(str.isspace, map(chr, range(0x3001))))  # all that there are
_BLANK = re.compile(r"[^\S\r\n]")  # within a line
_NO_BLANK = re.compile(r"[\S\r\n]")
_BLANKS = _SPACES.replace("\r", "").replace("\n", "")
_WEAK = ",;.，；。、．､｡"  # not part of the phrase that a lone marker ends
_OPENING = "([{（［｛「『【《〈〔"
_AFTER_WORDS = _WEAK + ":!?)]}：！？）］｝」』】》〉〕"  # no space stays before these


@dataclass(frozen=True)
class Phrase:
    """A marked phrase; prompt[start:end] == text."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class MarkedPrompt:
    """A prompt read for markers.

    clean: what the text encoder sees. markers: (start, end, role) of every marker in the text as
    typed, in order. unclosed: what to say of lone markers that stand like opening ones.
    """

    prompt: str
    clean: str
    content: tuple[Phrase, ...] = ()
    style: tuple[Phrase, ...] = ()
    markers: tuple[tuple[int, int, Role], ...] = ()
    unclosed: tuple[str, ...] = ()

    @property
    def has_content(self) -> bool:
        return bool(self.content)

    @property
    def has_style(self) -> bool:
        return bool(self.style)


def parse(prompt: str) -> MarkedPrompt:
    """Read the markers of a prompt; without any, `clean` is the prompt itself.

    Raises CraftError for a closing marker without its opening one, phrases inside one another,
    empty phrases, and more than MOST_MARKERS markers.
    """
    phrases: dict[Role, list[Phrase]] = {"content": [], "style": []}
    marks = list(islice(_MARKER.finditer(prompt), MOST_MARKERS + 1))
    if len(marks) > MOST_MARKERS:
        raise TOO_MANY_MARKERS.error(most=MOST_MARKERS)
    ends_phrase: set[int] = set()  # starts of the closing and lone markers
    lone: set[int] = set()
    index, free_from = 0, 0  # free_from: end of the previous marker
    while index < len(marks):
        mark = marks[index]
        closing = _closing_index(marks, index)
        if closing is None:
            start, end, trimmed = free_from, mark.start(), _WEAK
            lone.add(mark.start())
        else:
            start, end, trimmed = mark.end(), marks[closing].start(), ""
            index = closing
        ends_phrase.add(end)
        phrases[_role(mark)].append(_phrase(prompt, start, end, trimmed, mark, closing is None))
        free_from = marks[index].end()
        index += 1
    return MarkedPrompt(
        prompt=prompt,
        clean=_clean(prompt, marks, lone, ends_phrase) if marks else prompt,
        content=tuple(phrases["content"]),
        style=tuple(phrases["style"]),
        markers=tuple((mark.start(), mark.end(), _role(mark)) for mark in marks),
        unclosed=tuple(
            UNCLOSED.format(**_named(m)) for m in marks if _stands_open(m, prompt, lone)
        ),
    )


def has_many_markers(texts: Iterable[str], most: int) -> bool:
    """Whether texts have more than `most` markers together; what comes behind is not read."""
    found = (mark for text in texts for mark in _MARKER.finditer(text))
    return next(islice(found, most, None), None) is not None


def phrase_text(marked: MarkedPrompt, role: Role) -> str:
    """What the expert encoder reads of a role; several phrases are one list, none is ""."""
    return ", ".join(phrase.text for phrase in getattr(marked, role))


def gammas(marked: MarkedPrompt, roles: Sequence[Role]) -> tuple[float, ...]:
    """gamma of Eq. 8 by branch: 1, or 0 where its role's marker is absent.

    roles: the branches' roles, in the bank's order.
    """
    present = {"content": marked.has_content, "style": marked.has_style}
    return tuple(float(present[role]) for role in roles)


def _role(mark: re.Match[str]) -> Role:
    return _KINDS[mark["kind"].lower()]


def _closing_index(marks: list[re.Match[str]], index: int) -> int | None:
    """Index of the marker that closes this one, None if it is a lone marker."""
    mark = marks[index]
    if mark["close"]:
        raise NOTHING_TO_CLOSE.error(marker=mark[0], place=mark.start() + 1)
    for later in range(index + 1, len(marks)):
        if _role(marks[later]) != _role(mark):
            continue
        if not marks[later]["close"]:
            return None
        if later > index + 1:
            inner = marks[index + 1]
            raise MARKER_INSIDE.error(
                inner=inner[0], opening=mark[0], closing=marks[later][0], place=inner.start() + 1
            )
        return later
    return None


def _stands_open(mark: re.Match[str], prompt: str, lone: set[int]) -> bool:
    """Whether a lone marker stands right before a word and apart from the one before it."""
    before, after = _beside(prompt, mark.start(), mark.end())
    return mark.start() in lone and not before.isalnum() and after.isalnum()


def _named(mark: re.Match[str]) -> dict[str, str | int]:
    """A marker that is not closed, for a message."""
    return {"marker": mark[0], "place": mark.start() + 1, "closing": f"</{mark['kind']}>"}


def _phrase(
    prompt: str, start: int, end: int, trimmed: str, mark: re.Match[str], lone: bool
) -> Phrase:
    """prompt[start:end] without surrounding whitespace and, for a lone marker, punctuation."""
    text = prompt[start:end]
    kept = text.lstrip(_SPACES + trimmed)
    start += len(text) - len(kept)
    text = kept.rstrip(_SPACES + trimmed)
    end = start + len(text)
    if not text.strip(_WEAK):
        if lone:
            raise NOT_CLOSED.error(**_named(mark))
        raise EMPTY_PHRASE.error(marker=mark[0], place=mark.start() + 1)
    return Phrase(text, start, end)


def _clean(
    prompt: str, marks: Sequence[re.Match[str]], lone: set[int], ends_phrase: set[int]
) -> str:
    """Eq. 6's text: the prompt without its markers. What lies between them is copied once."""
    pieces, index, kept_to = [], 0, 0
    while index < len(marks):
        text = prompt[kept_to : marks[index].start()].rstrip(_BLANKS)
        start, end, starts = kept_to + len(text), kept_to, []
        while index < len(marks) and (not starts or marks[index].start() == end):
            starts.append(marks[index].start())
            end = marks[index].end()
            index += 1
            following = marks[index].start() if index < len(marks) else len(prompt)
            end = _behind_blanks(prompt, end, following)
        pieces += text, _seam(prompt, start, end, starts, lone, ends_phrase)
        kept_to = end
    clean = "".join([*pieces, prompt[kept_to:]])
    if _MARKER.search(clean):
        raise MARKER_LEFT.error()
    return clean


def _behind_blanks(prompt: str, start: int, end: int) -> int:
    """Where the first character of prompt[start:end] is that is no blank; `end` without any."""
    found = _NO_BLANK.search(prompt, start, end)
    return found.start() if found else end


def _seam(
    prompt: str, start: int, end: int, starts: Sequence[int], lone: set[int], ends_phrase: set[int]
) -> str:
    """What stands in place of prompt[start:end]: markers, at `starts`, and the blanks around."""
    before, after = _beside(prompt, start, end)
    if before in ("", "\n", "\r", *_OPENING) or after in ("", "\n", "\r"):
        return ""
    if after in _AFTER_WORDS and starts[-1] in ends_phrase:
        return ""
    if _BLANK.search(prompt, start, end):
        return " "
    words_meet = before.isalnum() and after.isalnum()
    return " " if words_meet and not lone.isdisjoint(starts) else ""


def _beside(prompt: str, start: int, end: int) -> tuple[str, str]:
    """The characters before and after prompt[start:end]; "" for an end of the prompt."""
    return prompt[start - 1 : start] if start else "", prompt[end : end + 1]
