"""A file that is replaced under its name is read anew: every node that offers files says so to the
host, whose cache goes by the names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from comfy_api.latest import io
from craft_lora_pack.comfy_adapter.model import basis, expert_encoder
from craft_lora_pack.nodes import NODES

FILE = "replaced.safetensors"
FOLDERS = (
    "loras", "checkpoints", "diffusion_models", "text_encoders", "clip_vision", "vgg",
    basis.FOLDER, expert_encoder.FOLDER,
)  # fmt: skip
Offer = tuple[type[io.ComfyNode], str, dict[str, Any]]


@pytest.fixture(scope="module")
def files() -> Iterator[list[Path]]:
    """A file of the same name in every folder that nodes read from."""
    found = []
    for folder in FOLDERS:
        place = Path(folder_paths.models_dir) / folder
        place.mkdir(parents=True, exist_ok=True)
        found.append(place / FILE)
        found[-1].write_bytes(b"before")
    yield found
    for path in found:
        path.unlink()


def offers() -> list[Offer]:
    """(node, input, the inputs by which the file is chosen there) of all menus that have it."""
    found: list[Offer] = []
    for node in NODES:
        schema = node.define_schema()
        for one in schema.inputs:
            if isinstance(one, io.Combo.Input) and FILE in one.options:
                given = [FILE] if schema.is_input_list else FILE
                found.append((node, one.id, {one.id: given}))
            for entry in one.options if isinstance(one, io.DynamicCombo.Input) else ():
                for inner in entry.inputs:
                    if isinstance(inner, io.Combo.Input) and FILE in inner.options:
                        nested = {one.id: entry.key, inner.id: FILE}
                        found.append((node, inner.id, {one.id: nested}))
    return found


def test_every_node_that_offers_files_notices_a_replaced_one(files):
    chosen = offers()
    assert {name for _, name, _ in chosen} == {
        "content_lora", "style_lora", "lora", "encoder", "basis", "unet_name", "ckpt_name", "vgg",
        "csd", "text_encoder", "second_content_lora", "second_style_lora", "second_lora",
    }  # fmt: skip
    first = [node.fingerprint_inputs(**given) for node, _, given in chosen]
    assert first == [node.fingerprint_inputs(**given) for node, _, given in chosen]
    for path in files:
        path.write_bytes(b"replaced by another")
    second = [node.fingerprint_inputs(**given) for node, _, given in chosen]
    stale = [
        (node.__name__, name)
        for (node, name, _), old, new in zip(chosen, first, second, strict=True)
        if old == new
    ]
    assert stale == []


def test_a_linked_name_has_a_fingerprint_too(files):
    for node, name, given in offers():
        linked = {name: [None] if isinstance(given[name], list) else None} if name in given else {}
        assert isinstance(node.fingerprint_inputs(**linked), str)
