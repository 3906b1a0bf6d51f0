"""Which rank-limited backbone a file was trained on, in its metadata, and whether a MODEL is that.

What is learned on W* = W - strength Q Q^T W is added to W* (CRAFT-LoRA 2026, arXiv:2602.18936,
Eqs. 1-4). On another backbone it does something else than what it learned, and nothing looks wrong.
`craft_basis`: JSON, a table for each basis with its file's name and hash, the part that was taken
and its strength.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..json_text import shallow_json
from .basis_file import WHICH, Which

_KEY = "craft_basis"
_LONGEST = 80  # letters of a name that a file states
_STRONGEST = 1e6  # far beyond what a basis can be applied at
_MOST = 8  # bases that a file may state; each is a part of one line


@dataclass(frozen=True, order=True)
class Projected:
    """A basis that is projected out of weights. digest: of its file, short; "" where it was in no
    file, as the name is then. which: content, style or both, as far as the file has them."""

    name: str
    digest: str
    which: Which
    strength: float

    def __str__(self) -> str:
        name = " ".join(self.name.split())[:_LONGEST] or "a basis"
        digest = f" ({self.digest[:12]})" if self.digest else ""
        return f"{name}{digest}, {self.which} at {self.strength:g}"

    @property
    def acts_as(self) -> tuple[str, str, float]:
        """The same for a file that was renamed."""
        return self.digest, self.which, self.strength


_FIELDS = tuple(one.name for one in fields(Projected))


def backbone_metadata(found: Iterable[Projected]) -> dict[str, str]:
    """The metadata of what is trained on a MODEL with these; empty without any."""
    tables = [asdict(one) for one in sorted(found)]
    return {_KEY: json.dumps(tables)} if tables else {}


def stated_backbone(metadata: Mapping[str, str]) -> frozenset[Projected]:
    """The bases that a file says it was trained with; none where it says nothing, or not in a known
    way."""
    try:
        tables = shallow_json(metadata.get(_KEY, ""))
    except ValueError:  # also nested too deeply
        return frozenset()
    if not isinstance(tables, list) or len(tables) > _MOST:
        return frozenset()
    read = [_read(one) for one in tables]
    return frozenset() if None in read else frozenset(one for one in read if one is not None)


def backbone_lines(
    called: str, metadata: Mapping[str, str], here: Iterable[Projected]
) -> tuple[str, ...]:
    """A line of a report where a file was trained on a rank-limited backbone that the MODEL is not.
    None of what was trained without a basis: a basis is put under such LoRAs on purpose, to keep
    the backbone's own content or style out. here: those that are projected out of the MODEL."""
    stated, here = stated_backbone(metadata), frozenset(here)
    if not stated or {one.acts_as for one in stated} == {one.acts_as for one in here}:
        return ()
    if not here:
        return (
            f"{called}: it was trained on the rank-limited backbone of {_named(stated)}, and this "
            "MODEL has no basis",
        )
    return (
        f"{called}: it was trained on the rank-limited backbone of {_named(stated)}, and this "
        f"MODEL is that of {_named(here)}",
    )


def trained_backbone(metadata: Mapping[str, str]) -> str:
    """The same in words; "" without."""
    return _named(stated_backbone(metadata))


def _named(found: Iterable[Projected]) -> str:
    return "; ".join(map(str, sorted(found)))


def _read(table: Any) -> Projected | None:
    if not isinstance(table, dict):
        return None
    name, digest, which, strength = (table.get(key) for key in _FIELDS)
    known = isinstance(name, str) and isinstance(digest, str) and which in WHICH
    if not known or not isinstance(strength, int | float) or not abs(strength) <= _STRONGEST:
        return None
    return Projected(name, digest, which, float(strength))
