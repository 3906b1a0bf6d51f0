"""Tests on a host before the one that CI runs: what they need may not be there yet."""

from __future__ import annotations

from types import ModuleType

import comfyui_version
import pytest

from launcher.run.environment import PINNED

IS_PINNED = comfyui_version.__version__ == PINNED.version


def needs(is_there: bool, what: str) -> None:
    """Skip the test on an older host that lacks what it needs; the host that CI runs has it."""
    if not is_there:
        assert not IS_PINNED, f"the host that CI runs has {what}"
        pytest.skip(f"this host has no {what}")


def later_module(name: str) -> ModuleType:
    """A module of the host, likewise."""
    try:
        return pytest.importorskip(name, reason=f"this host has no {name}")
    except pytest.skip.Exception:
        assert not IS_PINNED, f"the host that CI runs has {name}"
        raise
