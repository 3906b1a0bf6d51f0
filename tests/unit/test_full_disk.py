"""On a full disk every kind of file is whole or not there, and what is said names the disk."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from craft_lora_pack.craft_core.encoder.file import read_encoder, write_encoder
from craft_lora_pack.craft_core.encoder.network import Concept, ExpertEncoder
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.projection import Basis, LayerBasis, read_basis, write_basis
from craft_lora_pack.craft_core.tensor_file import read_shapes, save

resource = pytest.importorskip("resource")


def basis(path: Path) -> None:
    q = torch.linalg.qr(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))[0]
    write_basis(path, Basis({"a": LayerBasis(q, q)}, "output"), exclusive=True)


def encoder(path: Path) -> None:
    made = ExpertEncoder({"content": ["a"], "style": []}, 8, [Concept(("a" * 64,), ())])
    write_encoder(path, made, exclusive=True)


def tensors(path: Path) -> None:
    save(path, {"a": torch.ones(100, 100)}, {"b": "c"}, "A LoRA")


KINDS = {"basis": (basis, read_basis), "encoder": (encoder, read_encoder),
         "tensors": (tensors, read_shapes)}  # fmt: skip


@pytest.fixture
def limit():
    """Sets how large a file may become, as a full disk does; undone afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write is an error
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 1, 100, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_whole_or_not_there(tmp_path, limit, kind, size):
    write, read = KINDS[kind]
    path = tmp_path / "made.safetensors"
    limit(size)
    with pytest.raises(CraftError, match="cannot be written.* Check the folder and the disk"):
        write(path)
    assert list(tmp_path.iterdir()) == []
    limit(resource.RLIM_INFINITY)
    write(path)
    read(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_there_stays_where_there_is_no_room(tmp_path, limit, kind):
    write, _ = KINDS[kind]
    path = tmp_path / "made.safetensors"
    path.write_bytes(b"mine")
    limit(100)
    with pytest.raises(CraftError):
        write(path)
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]
