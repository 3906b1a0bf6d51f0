"""What scores need of a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class TextEncoder(Protocol):
    """A network that makes features of texts in the space of a picture encoder's, and what a score
    must say about it.

    name: of the network, never another's. preprocessing: how much of a text it looks at. width: of
    its features.
    """

    @property
    def name(self) -> str: ...

    @property
    def preprocessing(self) -> str: ...

    @property
    def width(self) -> int: ...

    def features(self, texts: Sequence[str]) -> Tensor:
        """Texts (n) -> (n, width), each from its own text alone."""
        ...

    def cuts(self, text: str) -> bool:
        """Whether the text is longer than what the features are made of."""
        ...
