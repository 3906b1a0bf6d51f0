"""A base directory for the host, with our packs linked into it; nothing goes to the host's own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from ..errors import LaunchError
from ..paths import ROOT, workspace_of
from .hosts import Host

PACKS = {"craft-lora": ROOT, "craft_small_world": ROOT / "small_world"}
FORMER = "comfyui-craft-lora"  # our name in workspaces made before it was changed
REFERENCES = ROOT / "small_world" / "references"
FOLDERS = ("custom_nodes", "models", "input", "output", "user")
USER_MODELS = "user_models.yaml"


def prepare_workspace(host: Host, folder: Path | None = None) -> Path:
    """Make the base directory of this clone and link both node packs into it; returns it."""
    base = folder or workspace_of(ROOT)
    try:
        for name in FOLDERS:
            (base / name).mkdir(parents=True, exist_ok=True)
        if _is_link(base / "custom_nodes" / FORMER):
            os.unlink(base / "custom_nodes" / FORMER)  # the host would load the pack twice
        for name, pack in PACKS.items():
            link(pack, base / "custom_nodes" / name)
        shutil.copytree(REFERENCES, base / "input" / "craft_small_world", dirs_exist_ok=True)
        for picture in REFERENCES.glob("*.png"):  # the host's Load Image lists no subfolders
            shutil.copy(picture, base / "input" / f"craft_small_world_{picture.name}")
        _point_at_user_models(host, base)
    except OSError as error:
        raise LaunchError(
            f"could not prepare {base} ({error.strerror or error}); put that right and run again."
        ) from error
    return base


def link(pack: Path, place: Path) -> None:
    """Make `place` lead to `pack`: a symbolic link, on Windows a junction (needs no rights)."""
    if leads_to(place, pack):
        return
    if _is_link(place):
        os.unlink(place)
    elif place.exists():
        raise LaunchError(f"{place} is in the way of the node pack; remove it and run again.")
    if os.name != "nt":
        place.symlink_to(pack, target_is_directory=True)
        return
    make_junction(place, ["cmd", "/c", "mklink", "/J", str(place), str(pack)])


def make_junction(place: Path, command: list[str]) -> None:
    """Run what makes it. What cmd prints may be in another encoding than Python reads by itself."""
    made = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if made.returncode != 0:
        raise LaunchError(f"Windows could not make the link {place}: {made.stderr.strip()}")


def _is_link(place: Path) -> bool:
    try:
        os.readlink(place)  # answers for junctions too, which is_symlink() does not
    except OSError:
        return False
    return True


def leads_to(place: Path, pack: Path) -> bool:
    """Whether `place` is a link to `pack`."""
    return _is_link(place) and os.path.realpath(place) == os.path.realpath(pack)


def _point_at_user_models(host: Host, base: Path) -> None:
    """Let a user's own ComfyUI find its models too, as further folders to read from.

    Files are still saved in our base directory. (JSON is valid YAML.)
    """
    config = base / USER_MODELS
    models = host.comfyui / "models"
    if not (host.own and models.is_dir()):
        config.unlink(missing_ok=True)
        return
    folders = {entry.name: str(entry) for entry in sorted(models.iterdir()) if entry.is_dir()}
    config.write_text(json.dumps({"user_comfyui": folders}), "utf-8")
