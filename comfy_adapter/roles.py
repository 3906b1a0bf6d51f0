"""Which rows of a model call are conditional: every conditioning of a run gets a name of our own.

The index in the host's `cond_or_uncond` differs between guiders, and its uuids are shared where
areas are matched, so at the start of a sampling run each conditioning gets a fresh uuid, and the
run remembers what it stands for.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

CONDITIONAL = frozenset({"positive", "middle"})  # "middle": the second prompt of the host's DualCFG


@dataclass(frozen=True)
class Role:
    """conditional: guided towards. view: which conditional copy, for methods that average some."""

    conditional: bool
    view: int


@dataclass
class Roles:
    """The roles of one sampling run, by uuid. An unknown uuid is unconditional."""

    by_uuid: dict[uuid.UUID, Role] = field(default_factory=dict)
    views: int = 1

    def of(self, key: uuid.UUID) -> Role:
        return self.by_uuid.get(key, Role(conditional=False, view=0))


def assign_roles(conds: dict[str, list[dict[str, Any]]], views: int, copy_all: bool) -> Roles:
    """Rename every conditioning in place and say what it is.

    conds: the guider's conditionings after the host prepared them, {name: [cond, ...]}.
    views > 1 copies each conditional one so that every view is evaluated and the host averages
    them (it weighs copies equally); copy_all copies the unconditional ones too.
    """
    roles = Roles(views=views)
    for name, entries in conds.items():
        conditional = name in CONDITIONAL
        copies = views if conditional or copy_all else 1
        conds[name] = [
            _renamed(entry, roles, Role(conditional, view))
            for entry in entries or ()
            for view in range(copies)
        ]
    return roles


def _renamed(entry: dict[str, Any], roles: Roles, role: Role) -> dict[str, Any]:
    key = uuid.uuid4()
    roles.by_uuid[key] = role
    return {**entry, "uuid": key}
