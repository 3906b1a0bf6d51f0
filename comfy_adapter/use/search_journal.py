"""The pictures of a search that were scored, in a file, so that a stopped search goes on.

A line a picture. Nothing in the file says which MODEL it is of, as a MODEL has no name: the first
picture is made again, and where its scores differ the file begins anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import folder_paths

Scored = tuple[str, int]  # a setting's label, and the seed
_SAME = 5e-3  # how far the scores of one picture may differ, as on a GPU they do


@dataclass
class SearchJournal:
    """path: None to keep nothing. scores: (content, style) of every picture."""

    path: Path | None
    scores: dict[Scored, tuple[float, float]] = field(default_factory=dict)

    @staticmethod
    def of(parts: Iterable[str]) -> SearchJournal:
        """That of a search. parts: what its pictures and their scores depend on, as far as it can
        be said in words. What cannot be read in the file is left out."""
        name = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        path = _folder() / f"{name}.jsonl"
        return SearchJournal(path, _read(path))

    def agrees(self, picture: Scored, scores: tuple[float, float]) -> bool:
        """Whether a picture that is in the file has these scores."""
        return all(
            abs(one - other) <= _SAME
            for one, other in zip(self.scores[picture], scores, strict=True)
        )

    def begin_anew(self) -> None:
        self.scores.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def add(self, picture: Scored, scores: tuple[float, float]) -> None:
        """A folder that takes no file is no fault: then a stopped search begins anew."""
        self.scores[picture] = scores
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([*picture, *scores]) + "\n")
        except OSError as error:
            logging.getLogger("craft").warning("The search cannot be stored: %s", error)
            self.path = None


def _folder() -> Path:
    """Inside the host's user folder, under a name that its HTTP routes do not serve."""
    return Path(folder_paths.get_user_directory()) / "__craft_lora" / "find_best"


def _read(path: Path) -> dict[Scored, tuple[float, float]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found = {}
    for line in lines:
        try:
            label, seed, content, style = json.loads(line)
            found[str(label), int(seed)] = float(content), float(style)
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue  # the end of a file that was cut
    return found
