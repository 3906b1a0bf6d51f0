"""Nodes that cannot be imported: an old ComfyUI is told so, and another fault is seen as it is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

INIT = Path(__file__).resolve().parents[3] / "__init__.py"


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (..., "^the fault$"),
        ("0.20.1", "^the fault$"),
        ("0.30.0", "^the fault$"),
        ("1.0.0", "^the fault$"),
        ("0.19.9", "needs ComfyUI .* and this is 0.19.9.*the fault"),
        ("0.19", "needs ComfyUI .* and this is 0.19.*the fault"),
        ("0.3-dev", "needs ComfyUI .* and this is 0.3-dev.*the fault"),
        ("0.30.0-dev", "^the fault$"),
        ("0.30-dev", "^the fault$"),
        ("0.20rc1", "^the fault$"),
        ("1-dev", "^the fault$"),
        ("0", "^the fault$"),
        ("0.x", "^the fault$"),
        ("dev", "^the fault$"),
        ("v0.3.0", "^the fault$"),
        ("", "^the fault$"),
        (".", "^the fault$"),
        ("٣.٤", "^the fault$"),
        (f"0.{'9' * 5000}", "^the fault$"),
        (None, "^the fault$"),
        (30, "^the fault$"),
    ],
)
def test_a_fault_of_the_nodes_is_told_as_the_version_only_where_that_is_known_and_old(
    tmp_path, monkeypatch, version, said
):
    (tmp_path / "__init__.py").write_text(INIT.read_text("utf-8"), "utf-8")
    (tmp_path / "nodes.py").write_text("raise ImportError('the fault')\n")
    host = None  # cannot be imported
    if version is not ...:
        host = ModuleType("comfyui_version")
        host.__version__ = version
    monkeypatch.setitem(sys.modules, "comfyui_version", host)
    spec = importlib.util.spec_from_file_location("pack_of_a_test", tmp_path / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pack_of_a_test", module)
    with pytest.raises(ImportError, match=said):
        spec.loader.exec_module(module)
