"""Files are found by the names that a ComfyUI on another system lists, and paths on another drive
are answered in words."""

from __future__ import annotations

import json
import ntpath
from pathlib import Path

import folder_paths
import pytest
from craft_lora_pack.client.facts import SUFFIXES
from craft_lora_pack.comfy_adapter import headless
from craft_lora_pack.comfy_adapter.model.basis import basis_path
from craft_lora_pack.comfy_adapter.model.host_files import path_by_name
from craft_lora_pack.comfy_adapter.model.lora_files import FOLDER, lora_stamps, require
from craft_lora_pack.comfy_adapter.page.routes import _about
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.nodes.lora_branch import LoRAList

WINDOWS = "style\\ink.safetensors"
HERE = "style/ink.safetensors"
OTHER_DRIVE = "D:\\loras\\ink.safetensors"


@pytest.fixture
def ink(tmp_path):
    """A LoRA in a subfolder of the host's loras folders."""
    place = tmp_path / HERE
    place.parent.mkdir()
    place.write_bytes(b"ink")
    folder_paths.add_model_folder_path(FOLDER, str(tmp_path))
    yield place
    folder_paths.folder_names_and_paths[FOLDER][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


@pytest.fixture
def on_windows(monkeypatch):
    """The host's function, which there raises for paths on another drive than the present one."""
    real = folder_paths.get_full_path

    def get_full_path(kind: str, name: str) -> str | None:
        ntpath.relpath(ntpath.join("/", name), "/")
        if Path(name).is_absolute():
            raise ValueError("path is on mount 'D:', start on mount 'C:'")
        return real(kind, name)

    monkeypatch.setattr(folder_paths, "get_full_path", get_full_path)


def test_a_name_that_windows_lists_finds_the_file(ink):
    assert path_by_name(FOLDER, WINDOWS) == path_by_name(FOLDER, HERE) == str(ink)
    assert require(WINDOWS) == str(ink)
    assert _about({"name": WINDOWS}) == _about({"name": HERE}) and HERE.endswith(SUFFIXES)
    assert path_by_name(FOLDER, "style\\none.safetensors") is None


def test_a_file_whose_own_name_has_a_backslash_comes_first(ink, tmp_path):
    (tmp_path / WINDOWS).write_bytes(b"another")
    assert path_by_name(FOLDER, WINDOWS) == str(tmp_path / WINDOWS)


def test_a_lora_list_of_windows_is_run_and_notices_a_replaced_file(ink):
    rows = json.dumps([{"lora": WINDOWS, "role": "style"}])
    assert LoRAList.validate_inputs(rows) is True
    before = LoRAList.fingerprint_inputs(rows)
    ink.write_bytes(b"another ink")
    assert LoRAList.fingerprint_inputs(rows) != before
    assert lora_stamps(WINDOWS) == LoRAList.fingerprint_inputs(rows)


def test_no_name_leads_out_of_the_folders(ink):
    secret = ink.parents[2] / "secret.safetensors"
    secret.write_bytes(b"secret")
    for name in ("..\\secret.safetensors", "style\\..\\..\\secret.safetensors"):
        assert path_by_name(FOLDER, name) is None


@pytest.mark.parametrize("find", [require, basis_path, lambda name: headless._file(FOLDER, name)])
def test_a_path_on_another_drive_is_refused_in_words(on_windows, find):
    with pytest.raises(CraftError, match="There is no"):
        find(OTHER_DRIVE)


def test_a_file_on_another_drive_is_taken_by_its_path(on_windows, tmp_path):
    file = tmp_path / "vgg.safetensors"
    file.write_bytes(b"")
    folder = "craft_test_drive"
    assert headless._listed(folder, str(file)) == file.name
    assert path_by_name(folder, file.name) == str(file)
    del folder_paths.folder_names_and_paths[folder]
