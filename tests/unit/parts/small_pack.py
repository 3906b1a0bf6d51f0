"""A node pack of a few small files in a git repository, in order and ready to be published."""

import os
import shutil
import subprocess
from pathlib import Path

from launcher.versions.matrix import OLDEST

PYPROJECT = f"""
[project]
name = "small-pack"
version = "0.2.0"
description = "Draws."
readme = "README.md"
requires-python = ">=3.10"
license = {{ file = "LICENSE" }}
classifiers = ["Operating System :: OS Independent", "Environment :: GPU :: NVIDIA CUDA"]
dependencies = []

[project.urls]
Repository = "https://github.com/a/b"

[tool.comfy]
PublisherId = "someone"
DisplayName = "Small"
Icon = "https://raw.githubusercontent.com/a/b/main/docs/icon.svg"
Banner = "https://raw.githubusercontent.com/a/b/main/docs/banner.svg"
requires-comfyui = ">={OLDEST.version}"
"""
CHANGELOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-01-02

### Added
- More.

## [0.1.0] - 2026-01-01

### Added
- All.
"""
FILES = {
    "pyproject.toml": PYPROJECT,
    "CHANGELOG.md": CHANGELOG,
    "LICENSE": "MIT License",
    "README.md": "A pack.",
    "requirements.txt": "# none",
    ".comfyignore": "# not for users\n/tests/",
    ".gitignore": "__pycache__/",
    "__init__.py": "from .nodes import menu",
    "run.py": "import sys",
    "nodes/__init__.py": "",
    "nodes/menu.py": "import json",
    "tests/test_it.py": "import json",
    "web/page.js": "",
    "docs/icon.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="400"></svg>',
    "docs/banner.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="1260" height="540"></svg>',
}
AUTHOR = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def small_pack(folder: Path) -> Path:
    """Write the pack into `folder` and commit it; returns the folder."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Commit all of the folder."""
    git(folder, "add", "--all")
    git(folder, *AUTHOR, "commit", "--quiet", "--message", "All")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, env=os.environ | GIT, check=True)


def edit(file: Path, old: str, new: str) -> None:
    """Replace `old`, which is there once at least; a file that is not there yet is written."""
    text = file.read_text("utf-8") if file.exists() else ""
    assert old in text, f"{old!r} is not in {file.name}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace(old, new) if old else new, "utf-8")


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
