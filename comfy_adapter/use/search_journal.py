"""The pictures of a search that were scored, in a file, so that a stopped search goes on.

A line a picture. Nothing in the file says which MODEL it is of, as a MODEL has no name: of each
guidance rule one picture is made again, and where its scores differ all of that rule are forgotten.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor

from ...craft_core.json_text import shallow_json

_MOST_BYTES = 1 << 26
_MOST_LINES = 200_000  # pictures; no search makes so many
_FORMAT = 2  # one more when the same parts give other pictures or scores, or are stored otherwise

Scored = tuple[str, int]  # a setting's label, and the seed
_SAME = 5e-3  # how far the scores of one picture may differ, as on a GPU they do


@dataclass
class SearchJournal:
    """path: None to keep nothing. scores: (content, style) of every picture."""

    path: Path | None
    scores: dict[Scored, tuple[float, float]] = field(default_factory=dict)

    @staticmethod
    def of(parts: Any) -> SearchJournal:
        """That of a search. parts: what its pictures and their scores depend on, as far as it has
        a content, in lists and dicts. What cannot be read in the file is left out."""
        name = hashlib.sha256(content_of([_FORMAT, parts]).encode()).hexdigest()
        path = _folder() / f"{name}.jsonl"
        return SearchJournal(path, _read(path))

    def agrees(self, picture: Scored, scores: tuple[float, float]) -> bool:
        """Whether a picture that is in the file has these scores."""
        return all(
            abs(one - other) <= _SAME
            for one, other in zip(self.scores[picture], scores, strict=True)
        )

    def forget(self, pictures: Iterable[Scored]) -> None:
        """The file is written anew without them."""
        forgotten = set(pictures)
        left = {one: scores for one, scores in self.scores.items() if one not in forgotten}
        if len(left) == len(self.scores):
            return
        self.scores.clear()
        if self.path is not None:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                self._keep_nothing(error)
        for picture, scores in left.items():
            self.add(picture, scores)

    def add(self, picture: Scored, scores: tuple[float, float]) -> None:
        """A folder that takes no file is no fault: then a stopped search begins anew."""
        self.scores[picture] = scores
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read() != b"\n":  # a line that was cut
                        file.write(b"\n")
                file.write(json.dumps([*picture, *scores]).encode() + b"\n")
        except OSError as error:
            self._keep_nothing(error)

    def _keep_nothing(self, error: OSError) -> None:
        logging.getLogger("craft").warning("The search cannot be stored: %s", error)
        self.path = None


def content_of(value: Any) -> str:
    """The same for equal numbers, texts and tensors, in dicts and sequences; of others the type."""
    if getattr(value, "is_nested", False):
        value = value.unbind()
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest = hashlib.sha256(numbers.numpy().tobytes()).hexdigest()
        return f"{tuple(value.shape)} {value.dtype} {digest}"
    if isinstance(value, Mapping):
        named = sorted((str(name), content_of(one)) for name, one in value.items())
        return f"{{{content_of(named)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(content_of, value))}]"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    return type(value).__qualname__


def _folder() -> Path:
    """Inside the host's user folder, under a name that its HTTP routes do not serve."""
    return Path(folder_paths.get_user_directory()) / "__craft_lora" / "find_best"


def _read(path: Path) -> dict[Scored, tuple[float, float]]:
    try:
        with path.open("rb") as file:
            lines = file.read(_MOST_BYTES).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines[:_MOST_LINES]:
        try:
            label, seed, content, style = shallow_json(line)
            key, scores = (str(label), int(seed)), (float(content), float(style))
        except (ValueError, TypeError, OverflowError):  # cut or damaged
            continue
        if all(map(math.isfinite, scores)):
            found[key] = scores
    return found
