"""The clone as one package, so that its rooms find each other by relative imports."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from .paths import ROOT

PACK = "craft_lora_pack"


def as_package(folder: Path = ROOT, name: str = PACK) -> ModuleType:
    """Let `name` mean the package in `folder`; its __init__, which needs the host, is not run."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return sys.modules[name]
