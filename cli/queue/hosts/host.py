"""A server among several: how it is reached, what is known of it, and what it does now."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from queue import SimpleQueue
from typing import Any, Protocol

from ....client.errors import RemoteError
from ....client.facts import MISSING
from ....client.near.jobs import Made
from ....client.widgets import Json
from ..matrix import Job
from .waiting import Files

Tells = Callable[[Any], None]


class Door(Protocol):
    """The way to one server. Functions of client/near/jobs.py and client/loras/sending.py are
    called with its address and what is given; RemoteError as they raise it, ServerGone also where
    the way to the server is gone."""

    def call(
        self, function: Callable[..., Any], *given: Any, key: str = "", tells: Tells | None = None
    ) -> Any:
        """What the function gives, when its turn has come. key: what the call is known as. tells:
        the function's last argument, if it takes one that it calls: called here, in any thread."""

    def aside(self, function: Callable[..., Any], *given: Any) -> Any:
        """The same at once, beside a call that has not ended."""


class Fleet(Protocol):
    """The servers that there are. patience: seconds in which others may come when none is left.
    wanted: what they are."""

    patience: float
    wanted: str

    def present(self) -> Mapping[str, Door]:
        """Name -> way, of those that are there now. ServerGone where nobody can tell any more."""


@dataclass(frozen=True)
class Waits:
    """What a host's job says: behind how many it waits, 0 when it no longer does."""

    job: Job
    ahead: int


class Does(Enum):
    """What a host does now."""

    TELLS = auto()  # what it is
    LACKS = auto()  # LoRAs, until the others have told what they have under those names
    TAKES = auto()  # LoRAs that are sent to it
    TRIES = auto()  # the reference job
    WAITS = auto()  # to be compared with the others
    RESTS = auto()  # ready for a job
    WORKS = auto()
    GONE = auto()  # asked again later
    OUT = auto()  # would give other pictures


@dataclass
class FleetHost:
    """What is known of one server. info: schemas of its nodes. pictures: hashes of what its
    reference job gave. loaded: the model files of its last job."""

    name: str
    door: Door
    answers: SimpleQueue[tuple[FleetHost, Any]]
    does: Does = Does.TELLS
    place: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    info: Json = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    pictures: tuple[str, ...] = ()
    failure: str = ""  # of the reference job
    job: Job | None = None
    prompt_ids: tuple[str, ...] = ()  # of that job
    ahead: int = 0  # jobs of others that its server runs before that one
    loaded: Files = frozenset()
    sent: Counter[str] = field(default_factory=Counter)  # how often each LoRA was sent to it
    since: float = field(default_factory=time.monotonic)  # it does this

    def begin(self, does: Does) -> None:
        self.does, self.since, self.ahead = does, time.monotonic(), 0

    def order(
        self, function: Callable[..., Any], *given: Any, key: str = "", tells: Tells | None = None
    ) -> None:
        """Call the function in a thread; its answer, or a RemoteError for whatever ended it, goes
        to `answers`. key, tells: see Door."""
        self.work(lambda: self.door.call(function, *given, key=key, tells=tells))

    def work(self, calls: Callable[[], Any]) -> None:
        """The same of several calls, one after another."""

        def answer() -> None:
            try:
                got = calls()
            except RemoteError as error:
                got = error
            except Exception as error:  # with no answer the command would wait for ever
                got = RemoteError(f"the call broke ({type(error).__name__}: {error}).")
            self.answers.put((self, got))

        threading.Thread(target=answer, daemon=True).start()

    @property
    def lacks(self) -> int:
        return sum(told == MISSING for told in self.facts.values())


def awaited(fleet: Fleet, reason: str = "") -> str:
    """What is said while there is no server. reason: of one that does not answer, if any."""
    minutes = f"{fleet.patience / 60:.0f} minutes"
    because = f" ({reason.removesuffix('.')})" if reason else ""
    return f"No server is there{because}; waiting up to {minutes} for {fleet.wanted}."


def differs(host: FleetHost, other: FleetHost) -> str:
    """What the first would do otherwise than the second, in words; empty where nothing is known."""
    for name in sorted({*host.facts, *other.facts}):
        own, its = host.facts.get(name, MISSING), other.facts.get(name, MISSING)
        if own != its:
            return f"{name}: {_short(own)} here, {_short(its)} on {other.name}"
    if host.pictures != other.pictures:
        return f"its pictures of the first job are not those of {other.name}"
    return ""


def _short(told: str) -> str:
    return told if len(told) <= 40 else f"{told[:12]}..."
