"""Which evaluation each row of a model call is of: every conditioning of a run gets a uuid of our
own.

The index in the host's `cond_or_uncond` differs between guiders, and its uuids are shared where
areas are matched, so at the start of a sampling run each conditioning gets a fresh uuid, and the
run remembers what it stands for.
"""

from __future__ import annotations

import copy
import uuid
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...craft_core.errors import CraftError

CONDITIONAL = frozenset({"positive", "middle"})  # "middle": the second prompt of the host's DualCFG


@dataclass(frozen=True)
class ConditioningKind:
    """evaluation: its name, as guidance rules declare them. view: which copy, for methods that
    average some."""

    evaluation: str
    view: int


_UNKNOWN = ConditioningKind("uncond", view=0)


@dataclass
class ConditioningKinds:
    """The kinds of the conditionings of one sampling run, by uuid, for all banks on its MODEL.

    An unknown uuid is unconditional. banks: how many have joined. further: the uuid of a
    conditioning in an evaluation that no sampler runs itself, by its own and the evaluation's name.
    """

    by_uuid: dict[uuid.UUID | None, ConditioningKind] = field(default_factory=dict)
    views: int = 1
    banks: int = 0
    further: dict[tuple[uuid.UUID | None, str], uuid.UUID] = field(default_factory=dict)

    def join(self, conds: dict[str, list[dict[str, Any]]], views: int, copy_all: bool) -> None:
        """A bank with `views` joins; one with a single view acts in every view of another.

        Gives every conditioning a fresh uuid in place and notes its kind, unless that was done.
        conds: the guider's conditionings after the host prepared them, {name: [cond, ...]}.
        views > 1 copies each conditional one so that every view is evaluated and the host averages
        them (it weighs copies equally); copy_all copies the unconditional ones too.
        Raises CraftError for two banks with several views each, and not as many.
        """
        if views > 1 and self.views > 1 and views != self.views:
            raise CraftError(
                f"Two Routers in a row evaluate {self.views} and {views} LoRAs apart",
                "LoRA Composite in one Router, or in both with as many LoRAs",
                "Connect all LoRAs to one Router, by Load LoRA Branch",
            )
        if self.banks == 0 or views > self.views:
            self._assign(conds, views, copy_all)
        self.banks += 1

    def of(self, key: uuid.UUID | None) -> ConditioningKind:
        return self.by_uuid.get(key, _UNKNOWN)

    def first_views(self, conds: list) -> list:
        """The conditionings of a call without the copies; None stays None."""
        return [c and [e for e in c if self.of(e.get("uuid")).view == 0] for c in conds]

    def in_calls(self, conds: list) -> list[list]:
        """The conditionings of a call, view by view where the host could not tell views from other
        conditionings: to one that stands for the rest of the picture it gives what the masks of all
        others leave, and would take each mask off once for every view. Else all together."""
        views = [{self.of(e.get("uuid")).view for e in c or ()} for c in conds]
        if not any(len(own) > 1 and _has_rest(c) for own, c in zip(views, conds, strict=True)):
            return [conds]
        return [
            [c and [e for e in c if self.of(e.get("uuid")).view == view] or None for c in conds]
            for view in sorted(set().union(*views))
        ]

    def averaged(self, calls: list[list], predictions: list[list[Tensor]]) -> list[Tensor]:
        """What the call predicts whose conditionings in_calls has divided."""
        if len(calls) == 1:
            return predictions[0]
        means = []
        for place, first in enumerate(predictions[0]):
            own = [one[place] for call, one in zip(calls, predictions, strict=True) if call[place]]
            means.append(torch.stack(own).mean(0) if own else first)
        return means

    def named(
        self, entries: list[dict[str, Any]] | None, evaluation: str, every_view: bool
    ) -> list[dict[str, Any]]:
        """The conditionings as those of another evaluation; every_view: else the first alone."""
        out = []
        for entry in entries or ():
            own, kind = entry.get("uuid"), self.of(entry.get("uuid"))
            if kind.view and not every_view:
                continue
            key = self.further.setdefault((own, evaluation), uuid.uuid4())
            self.by_uuid[key] = ConditioningKind(evaluation, kind.view)
            out.append({**entry, "uuid": key})
        return out

    def _assign(self, conds: dict[str, list[dict[str, Any]]], views: int, copy_all: bool) -> None:
        self.views = views
        for name, entries in conds.items():
            conditional = name in CONDITIONAL
            copies = views if conditional or copy_all else 1
            conds[name] = [
                self._renamed(entry, ConditioningKind("cond" if conditional else "uncond", view))
                for entry in entries or ()
                for view in range(copies)
            ]

    def _renamed(self, entry: dict[str, Any], kind: ConditioningKind) -> dict[str, Any]:
        key = uuid.uuid4()
        self.by_uuid[key] = kind
        if kind.view and "model_conds" in entry:
            made_anew = {name: _made_anew(one) for name, one in entry["model_conds"].items()}
            entry = {**entry, "model_conds": made_anew}
        return {**entry, "uuid": key}


def _has_rest(entries: list[dict[str, Any]] | None) -> bool:
    """Whether one of the conditionings is for what the others leave of the picture."""
    return any("default" in entry for entry in entries or ())


def _made_anew(given: Any) -> Any:
    """What the host has prepared for the model, as if it did so again for the copy of a
    conditioning: objects that are equal to themselves alone are others.

    MiniMax H3 takes one row at a time, and its rows are kept apart by nothing but such an object.
    """
    constant = getattr(given, "cond", None)
    if not isinstance(constant, dict):
        return given
    alone = (name for name, one in constant.items() if type(one).__eq__ is object.__eq__)
    return given._copy_with({**constant, **{name: copy.copy(constant[name]) for name in alone}})
