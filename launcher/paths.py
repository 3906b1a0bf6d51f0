"""Where things are: this clone, and the per-user cache that every clone shares."""

import hashlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE_NAME = "comfyui-craft-lora"


def user_cache(platform: str = sys.platform, environ: "os._Environ | dict" = os.environ) -> Path:
    """The user's cache folder of this system (XDG on Linux, Library/Caches, LOCALAPPDATA)."""
    home = Path(environ.get("HOME") or Path.home())
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if platform == "darwin":
        return home / "Library" / "Caches"
    configured = environ.get("XDG_CACHE_HOME", "")
    return Path(configured) if os.path.isabs(configured) else home / ".cache"


def shared_cache() -> Path:
    """The folder that all clones of this pack share."""
    return user_cache() / CACHE_NAME


def workspace_of(clone: Path) -> Path:
    """The base directory (custom_nodes, models, input, output, user) that belongs to one clone."""
    digest = hashlib.sha256(str(clone).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return shared_cache() / "workspaces" / digest


def venv_python(venv: Path) -> Path:
    """The interpreter inside a virtual environment."""
    if os.name == "nt":
        return venv / "Scripts" / "python.exe"
    return venv / "bin" / "python"
