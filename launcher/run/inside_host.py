"""Let this process import the host and our pack; tests and benchmarks use it."""

import importlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from ..pack import PACK, as_package
from ..paths import ROOT

FOLDERS = ("custom_nodes", "input", "output", "user", "models/checkpoints", "models/loras")


def enter_host(comfyui: Path, base: Path, *, cpu: bool = True) -> None:
    """Let `import comfy`, `nodes`, `execution` ... mean the host's, with `base` for its files.

    The host comes first on sys.path and this clone last; else `import nodes` would find ours.
    Must run before anything imports the host.
    """
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    here = {"", os.path.abspath(ROOT), os.path.abspath(comfyui)}
    rest = [path for path in sys.path if (path and os.path.abspath(path)) not in here]
    sys.path[:] = [str(comfyui), *rest, str(ROOT)]
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = cpu
    arguments.base_directory = str(base)
    arguments.database_url = "sqlite:///:memory:"
    arguments.disable_api_nodes = True
    importlib.import_module("utils.extra_config")  # before the host's nodes: they would hide utils/


def load_pack(folder: Path = ROOT, name: str = PACK) -> ModuleType:
    """Import the clone as one package, as the host's loader does; `craft_core` is in it."""
    module = as_package(folder, name)
    if hasattr(module, "comfy_entrypoint"):
        return module
    assert module.__spec__ is not None and module.__spec__.loader is not None
    try:
        module.__spec__.loader.exec_module(module)
    except BaseException:  # also Ctrl-C: a half-imported package must not stay behind
        del sys.modules[name]
        raise
    return module


def temporary_base() -> "tempfile.TemporaryDirectory[str]":
    """A base directory that is deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="craft-host-", ignore_cleanup_errors=True)
