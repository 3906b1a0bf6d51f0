"""What acted in a sampling run: a bank's gates at every noise level the model was called at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...craft_core.guidance import SAMPLERS_OWN
from ...craft_core.types import Role

RECORDERS = "craft_recorder"  # their key in a MODEL's transformer options, by who reads them
SAMPLER = "sampler"  # a sampling node of ours, which shows the map of its run itself


@dataclass
class Record:
    """One bank's run: its layers in depth order, its branches' roles, and a gate table for each
    noise level in the order of the calls, (views, layers, branches). weights: beside each table,
    the guidance rule's w of content and style; None where it has none. evaluations: how many the
    model computed of each image, by the names that guidance rules give them."""

    layers: tuple[str, ...]
    roles: tuple[Role, ...]
    sigmas: list[float] = field(default_factory=list)
    tables: list[Tensor] = field(default_factory=list)
    weights: list[tuple[float, float] | None] = field(default_factory=list)
    evaluations: Counter[str] = field(default_factory=Counter)

    @property
    def took_more(self) -> bool:
        """Whether the guidance rule had more evaluated than a sampler does by itself."""
        return any(name not in SAMPLERS_OWN for name in self.evaluations)


@dataclass
class Recorder:
    """The records of a run by bank; an object that the host hands on as it is."""

    records: dict[str, Record] = field(default_factory=dict)

    def note(
        self,
        bank: str,
        layers: tuple[str, ...],
        roles: Sequence[Role],
        sigma: float,
        table: Tensor,
        evaluations: Iterable[str] = (),
        weights: tuple[float, float] | None = None,
    ) -> None:
        """Add a model call at this noise level; calls in a row at one level count as one row."""
        record = self.records.setdefault(bank, Record(layers, tuple(roles)))
        record.evaluations.update(evaluations)
        if not record.sigmas or record.sigmas[-1] != sigma:
            record.sigmas.append(sigma)
            record.tables.append(table)
            record.weights.append(weights)


def add_recorder(options: dict[str, Any], reader: str, recorder: Recorder) -> None:
    """Add a recorder to a MODEL's transformer options, beside those of other readers."""
    options[RECORDERS] = {**options.get(RECORDERS, {}), reader: recorder}


@contextmanager
def recording(options: dict[str, Any], reader: str) -> Iterator[Recorder]:
    """A recorder of the sampling inside the block that uses these transformer options."""
    before, recorder = options.get(RECORDERS), Recorder()
    add_recorder(options, reader, recorder)
    try:
        yield recorder
    finally:
        if before is None:
            del options[RECORDERS]
        else:
            options[RECORDERS] = before
