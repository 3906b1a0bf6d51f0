"""On a full disk every kind of file is whole or not there, and what is said names the disk."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from craft_lora_pack.cli.queue.journal import NAME, Journal
from craft_lora_pack.cli.queue.matrix import jobs_of
from craft_lora_pack.cli.queue.saving import save_output
from craft_lora_pack.client.address import Inputs
from craft_lora_pack.craft_core.encoder.file import read_encoder, write_encoder
from craft_lora_pack.craft_core.encoder.network import Concept, ExpertEncoder
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.projection import Basis, LayerBasis, read_basis, write_basis
from craft_lora_pack.craft_core.tensor_file import read_shapes, save
from fake_comfyui import OBJECT_INFO, PROMPT, picture

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


JOBS = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], ["seed=1..3"], [])


@pytest.mark.parametrize("size", [0, 1, 30, 100])
def test_a_picture_of_a_job_is_whole_or_not_there(tmp_path, limit, size):
    earlier = save_output(b"earlier", tmp_path, "a", "demo", JOBS[0], "x.png")
    content = picture(1)
    limit(size)
    with pytest.raises(OSError, match="too large"):
        save_output(content, tmp_path, "a", "demo", JOBS[0], "x.png")
    assert [file.name for file in tmp_path.iterdir()] == [earlier]
    assert (tmp_path / earlier).read_bytes() == b"earlier"
    limit(resource.RLIM_INFINITY)
    assert save_output(content, tmp_path, "a", "demo", JOBS[0], "x.png") != earlier


@pytest.mark.parametrize("size", [0, 1, 30, 100])
def test_a_journal_keeps_its_lines_and_goes_on_behind_one_that_was_cut(tmp_path, limit, size):
    """Also in the command that saw the disk full."""
    journal = Journal(tmp_path, "0" * 32)
    journal.failed(JOBS[0], "why")
    before = (tmp_path / NAME).read_bytes()
    limit(len(before) + size)
    with pytest.raises(OSError, match="too large"):
        journal.failed(JOBS[1], "why" * 100)
    limit(resource.RLIM_INFINITY)
    assert (tmp_path / NAME).read_bytes().startswith(before)
    (tmp_path / "a").write_bytes(b"picture")
    journal.done(JOBS[2], ["a"])
    again = Journal(tmp_path, "1" * 32)
    assert again.is_done(JOBS[2]) and not again.is_done(JOBS[1])
