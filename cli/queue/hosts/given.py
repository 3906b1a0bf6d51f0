"""The servers of several --server: each is asked by threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .host import Door, Tells


@dataclass(frozen=True)
class _Address:
    url: str

    def call(
        self, function: Callable[..., Any], *given: Any, key: str = "", tells: Tells | None = None
    ) -> Any:
        return function(self.url, *given, *([tells] if tells else ()))

    def aside(self, function: Callable[..., Any], *given: Any) -> Any:
        return function(self.url, *given)


class GivenServers:
    """They are always there, whether they answer or not."""

    patience = 0.0
    wanted = "one of those that --server names"

    def __init__(self, urls: Sequence[str]) -> None:
        self._doors = {url: _Address(url) for url in urls}

    def present(self) -> Mapping[str, Door]:
        return self._doors
