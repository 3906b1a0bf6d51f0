"""All N x M pairs of content and style references, and what each pair shows.

CRAFT-LoRA (arXiv 2602.18936), Eq. 5: P = {(c_i, s_j)}, every content with every style. A pair
(i, j) holds x_c, the picture that supervises the content basis, and x_s, the one that supervises
the style basis (Sec. 3.3.2, App. A.1). Pairs are ordered content-major: (0, 0), (0, 1), ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...craft_core.frequency import Domain, low_high
from ..draw.contact_sheet import contact_sheet
from .references import References, pair_caption


@dataclass(frozen=True)
class Band:
    """Where content ends and style begins: a fraction of Nyquist, in a frequency domain."""

    cutoff: float
    domain: Domain


@dataclass(frozen=True)
class PairSet:
    """One entry a pair, content-major; every picture is (1, height, width, 3).

    content, style: x_c and x_s; the same object where a pair is one picture. notes: lines for
    the user's report.
    """

    content: list[Tensor]
    style: list[Tensor]
    content_captions: list[str]
    style_captions: list[str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.content)

    def pictures(self) -> Iterator[tuple[tuple[Tensor, str], ...]]:
        """Per pair its distinct pictures with their captions: one, or x_c then x_s."""
        captions = zip(self.content_captions, self.style_captions, strict=True)
        images = zip(self.content, self.style, strict=True)
        for (x_c, x_s), (c, s) in zip(images, captions, strict=True):
            yield ((x_c, c),) if x_c is x_s else ((x_c, c), (x_s, s))


def indices(content: References, style: References) -> list[tuple[int, int]]:
    """(i, j) of every pair, content-major. Source: Eq. 5."""
    return [(i, j) for i in range(len(content)) for j in range(len(style))]


def shared_captions(content: References, style: References, template: str) -> list[str]:
    """A caption a pair, saying both its content and its style."""
    pairs = indices(content, style)
    return [pair_caption(template, content.captions[i], style.captions[j]) for i, j in pairs]


def reference_pairs(content: References, style: References) -> PairSet:
    """Every pair is its two references, unchanged: x_c = content i, x_s = style j."""
    pairs = indices(content, style)
    return PairSet(
        content=[content.image(i) for i, _ in pairs],
        style=[style.image(j) for _, j in pairs],
        content_captions=[content.captions[i] for i, _ in pairs],
        style_captions=[style.captions[j] for _, j in pairs],
    )


def mixed_pairs(content: References, style: References, band: Band, template: str) -> PairSet:
    """Every pair is one picture: low band of content i plus high band of style j, no model.

    A sum outside [0, 1] is cut to it, and the notes say how much was. Source: Sec. 3.3.2.
    """
    low, _ = split_images(content.images, band)
    _, high = split_images(style.images, band)
    sums = [low[i : i + 1] + high[j : j + 1] for i, j in indices(content, style)]
    outside = sum(((x < 0) | (x > 1)).float().mean().item() for x in sums) / len(sums)
    mixed = [x.clamp(0, 1) for x in sums]
    captions = shared_captions(content, style, template)
    note = f"{outside:.1%} of the values left [0, 1] and were cut."
    return PairSet(mixed, mixed, captions, captions, (note,) if outside else ())


def split_images(images: Tensor, band: Band) -> tuple[Tensor, Tensor]:
    """Low and high band of (n, height, width, c) images, same shape; one image at a time."""
    bands = [low_high(x.movedim(-1, 0), band.cutoff, band.domain) for x in images]
    low, high = (torch.stack(parts).movedim(1, -1) for parts in zip(*bands, strict=True))
    return low, high


def previews(content: References, style: References, band: Band) -> tuple[Tensor, Tensor]:
    """What is content of the contents (N, ...) and what is style of the styles (M, ...).

    The high band lies in [-1, 1]; it is shown as 0.5 + high / 2, grey where there is none.
    """
    low, _ = split_images(content.images, band)
    _, high = split_images(style.images, band)
    return low, 0.5 + high / 2


def sheet(pairs: PairSet, content: References, style: References) -> Tensor:
    """The pairs as a picture (1, h, w, 3): a row a content, a column a style, references around."""
    cells = [[image for image, _ in pictures] for pictures in pairs.pictures()]
    columns = len(style)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heads = [content.image(i) for i in range(len(content))]
    return contact_sheet(heads, [style.image(j) for j in range(columns)], rows)
