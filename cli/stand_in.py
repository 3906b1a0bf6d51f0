"""Read what the pack declares on a Python without torch.

Methods are declared in the files that compute them, and those import torch. Where it is not
installed, an empty stand-in takes its place, so that names, knobs and help texts can be read.
Commands that compute ask for torch before they begin (`Command.computes`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ..craft_core.errors import CraftError

NAMES = ("torch", "safetensors", "numpy")


def missing() -> list[str]:
    """What of torch and its companions this Python lacks."""
    return [name for name in NAMES if _is_stand_in(name) or find_spec(name) is None]


def require_torch() -> None:
    """CraftError on a Python without torch or its companions, or where they cannot be loaded."""
    lacking = " and no ".join(missing())
    if lacking:
        raise CraftError(
            f"{sys.executable} has no {lacking}",
            "This command computes, and ComfyUI's own Python has what it needs; queue, find-best, "
            "methods, families, inspect and every --help run on any Python from 3.10",
            "Start it with the Python that starts ComfyUI, or install these in this one",
        )
    with declarations():
        for name in NAMES:
            import_module(name)


@contextmanager
def declarations() -> Iterator[None]:
    """While the block lasts, modules that import what is missing can be imported. CraftError where
    torch or a companion is installed and cannot be loaded."""
    finder = _Finder(missing())
    sys.meta_path.append(finder)
    try:
        yield
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) or _is_no_torch(error):
            raise
        raise CraftError(
            f"{sys.executable} has a torch that cannot be loaded ({' '.join(str(error).split())})",
            "This command imports torch, and ComfyUI's own Python has one that loads",
            "Start it with the Python that starts ComfyUI, or install torch in this one anew",
        ) from error
    finally:
        sys.meta_path.remove(finder)


def _is_no_torch(error: ImportError | OSError) -> bool:
    """Whether one of the pack's own modules is at fault, or a file that the error names."""
    if isinstance(error, OSError):
        return error.filename is not None
    return (error.name or "").startswith(__name__.partition(".")[0])


def _is_stand_in(name: str) -> bool:
    return isinstance(sys.modules.get(name), _StandIn)


class _Name(type):
    """A class in place of any name of a missing module: it can be an annotation, a base class, a
    decorator or a value, but nothing can be computed with it."""

    def __getattr__(cls, name: str) -> Any:
        return _named(cls.__module__, name)

    def __call__(cls, *given: Any, **_: Any) -> Any:
        return given[0] if given and callable(given[0]) else cls

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__

    def __getitem__(cls, _: Any) -> Any:
        return cls


def _named(module: str, name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Name(name, (), {"__module__": module})


class _StandIn(ModuleType):
    """A module that has any name."""

    def __getattr__(self, name: str) -> Any:
        return _named(self.__name__, name)


class _Finder(MetaPathFinder, Loader):
    """Finds a stand-in for each of these modules and what is inside them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self._names:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """A stand-in has nothing to run."""
