"""What the headers of LoRA files say, printed."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...craft_core.errors import listed
from ...craft_core.lora.header.layers import LoraHeader, read_lora_header
from ..stand_in import missing

_LINES = 40  # of metadata
_LETTERS = 100  # of a value of metadata


def report_headers(options: Namespace) -> None:
    """Print what the headers of the files say."""
    headers = [read_lora_header(Path(file)) for file in options.files]
    if options.json:
        print(
            json.dumps({"measured": False, "files": [_as_json(one) for one in headers]}, indent=1)
        )
        return
    for letter, header in zip("AB", headers, strict=False):
        print("\n".join(_text(letter, header)))
    if len(headers) == 2:
        first, second = (set(header.layers) for header in headers)
        print(
            f"{len(first & second)} layers in both, {len(first - second)} in A alone, "
            f"{len(second - first)} in B alone, by their names"
        )
    print(
        f"From the headers alone: this Python has no {' and no '.join(missing())}. With ComfyUI's "
        "own Python inspect measures the updates, too."
    )


def _text(letter: str, header: LoraHeader) -> Iterator[str]:
    ranks = sorted({header.ranks[0], header.ranks[-1]}) if header.ranks else ["-"]
    yield f"{letter}  {header.name}"
    yield f"   {len(header.layers)} layers, rank {' to '.join(map(str, ranks))}"
    yield from (f"   {kind} in {count}" for kind, count in header.kinds.items())
    yield f"   text encoder: {len(header.text_encoder) or 'no'} matrices"
    if header.others:
        yield f"   of no layer: {len(header.others)} ({listed(header.others, 6)})"
    for name, value in list(header.metadata.items())[:_LINES]:
        yield f"   {name}: {value[:_LETTERS]}{'...' if len(value) > _LETTERS else ''}"


def _as_json(header: LoraHeader) -> Any:
    return {
        "name": header.name,
        "layers": header.layers,
        "kinds": header.kinds,
        "ranks": header.ranks,
        "text_encoder_matrices": len(header.text_encoder),
        "others": header.others,
        "metadata": header.metadata,
    }
