"""From the Pair Builder's inputs to everything it hands out: one function over the three modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.frequency import check_band
from .pair_set import Band, PairSet, mixed_pairs, previews, reference_pairs, sheet
from .references import (
    References,
    Resizing,
    captions_of,
    check_template,
    one_size,
    single_images,
)
from .sampling import Generation, generated_pairs, pixel_multiple

REFERENCES, MIX, GENERATE = "references", "frequency mix", "generate"
MODES = (REFERENCES, MIX, GENERATE)


@dataclass(frozen=True)
class Sources:
    """Both sides as the sockets deliver them: image batches (b, h, w, c), caption texts."""

    content_images: Sequence[Tensor]
    style_images: Sequence[Tensor]
    content_captions: Sequence[str] = ()
    style_captions: Sequence[str] = ()


@dataclass(frozen=True)
class Built:
    """pairs; low (N, h, w, 3) and high (M, h, w, 3) bands of the references; sheet; report."""

    pairs: PairSet
    low: Tensor
    high: Tensor
    sheet: Tensor
    report: str


def build(
    sources: Sources,
    mode: str,
    band: Band,
    *,
    template: str,
    resizing: Resizing,
    generation: Generation | None = None,
) -> Built:
    """Read, check, pair, draw and report; every mistake raises CraftError before any work."""
    check_mode(mode)
    check_template(template)
    check_band(band.cutoff, band.domain)
    coarseness = 1
    if mode == GENERATE:
        generation.check_sockets()
        coarseness = pixel_multiple(generation.vae)
    content, style, notes = _references(sources, resizing, coarseness)
    if mode == GENERATE:
        pairs = generated_pairs(content, style, band, template, generation)
    elif mode == MIX:
        pairs = mixed_pairs(content, style, band, template)
    else:
        pairs = reference_pairs(content, style)
    shown = Band(band.cutoff / coarseness, band.domain)
    low, high = previews(content, style, shown)
    report = _report(content, style, pairs, mode, band, shown, notes)
    return Built(pairs, low, high, sheet(pairs, content, style), report)


def check_mode(mode: str | None) -> None:
    """Raise CraftError unless the mode is one of ours."""
    if mode not in MODES:
        raise CraftError(
            f"The mode is {mode!r}" if mode else "No mode of the Pair Builder was chosen",
            f"It can be {', '.join(MODES)}",
            "Choose one of these",
        )


def _references(
    sources: Sources, resizing: Resizing, multiple: int
) -> tuple[References, References, list[str]]:
    """Both sides read and brought to one size, with a line on each change that was made."""
    content = single_images(sources.content_images, "content")
    style = single_images(sources.style_images, "style")
    content_captions = captions_of(sources.content_captions, len(content), "content")
    style_captions = captions_of(sources.style_captions, len(style), "style")
    images = one_size(content, style, resizing, multiple)
    size = images[0].shape[1:3]
    changed = sum(image.shape[1:3] != size for image in (*content, *style))
    notes = []
    if changed:
        crop = "cropped to the shape" if resizing.crop == "center" else "stretched"
        notes.append(f"{changed} references were resized ({resizing.method}, {crop}).")
    if any(batch.shape[-1] > 3 for batch in (*sources.content_images, *sources.style_images)):
        notes.append("Alpha channels were left out.")
    return References(images[0], content_captions), References(images[1], style_captions), notes


def _report(
    content: References,
    style: References,
    pairs: PairSet,
    mode: str,
    band: Band,
    shown: Band,
    notes: list[str],
) -> str:
    height, width = content.size
    pictures = sum(len(found) for found in pairs.pictures())
    lines = [
        f"{len(content)} content x {len(style)} style references = {len(pairs)} pairs "
        f"({mode}), {pictures} pictures of {width} x {height}, content-major.",
        f"Bands: {band.domain}, cutoff {band.cutoff:g} of Nyquist (both bands at 1/2 there).",
    ]
    if shown != band:
        lines.append(
            f"That is on the latents; the previews show it on pixels, cutoff {shown.cutoff:g}."
        )
    return "\n".join([*lines, *notes, *pairs.notes])
