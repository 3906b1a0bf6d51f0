"""Reading safetensors files: one function reads all our kinds, with the same error messages."""

import hashlib
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from craft_core import file_hash as hashing
from craft_core.encoder import file as encoder_file
from craft_core.errors import CraftError
from craft_core.lora import storage
from craft_core.projection import basis_file
from craft_core.tensor_file import Kind, opened, read, read_metadata
from craft_core.training import loop, perceptual

ROOT = Path(__file__).resolve().parents[2]
TAGGED = Kind("test file", "Make it again", "craft-test", 3, "Choose a test file")
KINDS = {
    "tagged": TAGGED,
    "LoRA": storage.KIND,
    "basis": basis_file.KIND,
    "encoder": encoder_file.KIND,
    "state": loop.STATE,
    "VGG-19": perceptual.KIND,
}
TENSORS = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.float16)}


def written(path, **metadata):
    safetensors.torch.save_file(TENSORS, path, metadata)
    return path


def tags(kind):
    found = {"format": kind.format, "format_version": kind.version, "more": "x"}
    return {name: str(value) for name, value in found.items() if value is not None}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_is_written_is_read_and_stays_when_the_file_changes(kind, tmp_path):
    path = written(tmp_path / "a.safetensors", **tags(kind))
    tensors, metadata = read(path, kind)
    assert metadata == tags(kind) == read_metadata(path, kind)
    assert list(tensors) == ["a", "b"]
    path.write_bytes(b"\0" * path.stat().st_size)
    for key, expected in TENSORS.items():
        assert torch.equal(tensors[key], expected) and tensors[key].dtype == expected.dtype


def test_a_mapped_file_outlives_its_name_and_is_what_a_copy_is(tmp_path):
    path = written(tmp_path / "a.safetensors", **tags(TAGGED))
    copied, metadata = read(path, TAGGED)
    mapped, again = read(path, TAGGED, mapped=True)
    path.rename(tmp_path / "b.safetensors")
    assert list(mapped) == list(copied) and again == metadata
    assert all(torch.equal(mapped[key], copied[key]) for key in copied)


@pytest.mark.parametrize("look", [read, read_metadata])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_cannot_be_read_is_told_by_name_with_what_to_do(kind, look, tmp_path):
    whole = written(tmp_path / "whole.safetensors", **tags(kind)).read_bytes()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(CraftError, match=r"folder\.safetensors cannot be read\. There is no file"):
        look(tmp_path / "folder.safetensors", kind)
    with pytest.raises(CraftError, match=r"none\.safetensors cannot be read\. There is no file"):
        look(tmp_path / "none.safetensors", kind)
    for content in (b"", whole[:4], whole[:8], whole[:40], whole[:-1], b"PK\3\4 a pickled model"):
        path = tmp_path / "broken.safetensors"
        path.write_bytes(content)
        with pytest.raises(CraftError, match=r"broken\.safetensors cannot be read: ") as error:
            look(path, kind)
        assert kind.again in error.value.action and kind.one in error.value.possible


@pytest.mark.parametrize("look", [read, read_metadata])
@pytest.mark.parametrize(
    "kind", [one for one in KINDS.values() if one.format], ids=lambda k: k.noun
)
def test_a_file_of_another_format_or_version_is_refused(kind, look, tmp_path):
    path = tmp_path / "other.safetensors"
    for changed in ({"format": "craft-other"}, {"format": ""}):
        with pytest.raises(CraftError, match=f"other.safetensors is no {kind.noun}") as error:
            look(written(path, **tags(kind) | changed), kind)
        assert kind.choose in error.value.action and kind.format in error.value.possible
    if kind.version is not None:
        for version in ("0", str(kind.version + 1), "new", ""):
            message = f"format version {version}" if version else "no format version"
            with pytest.raises(CraftError, match=f"other.safetensors has {message}"):
                look(written(path, **tags(kind) | {"format_version": version}), kind)


def test_an_error_inside_the_block_is_not_the_files(tmp_path):
    path = written(tmp_path / "a.safetensors")
    with pytest.raises(KeyError), opened(path, storage.KIND):
        raise KeyError("of the caller")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100])
def test_the_hash_is_of_the_whole_file(size, tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "_CHUNK", 16)
    path = tmp_path / "any"
    path.write_bytes(bytes(range(size)))
    expected = hashlib.sha256(bytes(range(size))).hexdigest()
    assert hashing.file_hash(path) == hashing.file_hash(str(path)) == expected


def test_files_are_opened_and_hashed_in_one_place():
    own = re.compile(r"safe_open\(|safetensors\.torch\.load|load_file\(|:= \w+\.read\(")
    files = [file for room in ("craft_core", "client", "cli", "comfy_adapter", "nodes")
             for file in sorted((ROOT / room).rglob("*.py"))]  # fmt: skip
    assert len(files) > 100
    found = [str(file.relative_to(ROOT)) for file in files if own.search(file.read_text("utf-8"))]
    assert found == ["craft_core/file_hash.py", "craft_core/tensor_file.py"]
