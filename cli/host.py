"""Load the host into this process: the only place where the command line imports it, by name.

Nothing of the host or of comfy_adapter is imported before `enter`, and everything after it goes
through craft_core.requests.Headless.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import cast

from ..craft_core.errors import CraftError
from ..craft_core.requests import Headless

PACK = Path(__file__).absolute().parents[1]


OUT_TEXT = "The output directory to save under. Default: the host's own."


def add_host_flags(parser: ArgumentParser, out: str = OUT_TEXT) -> None:
    """out: help for --out."""
    group = parser.add_argument_group("ComfyUI")
    group.add_argument(
        "--comfyui", metavar="FOLDER", default="",
        help="The ComfyUI whose models and code are used. Default: COMFYUI_PATH, or the one whose "
        "custom_nodes folder holds this pack.",
    )  # fmt: skip
    group.add_argument(
        "--base-directory", metavar="FOLDER", default="",
        help="As ComfyUI's own flag: where models, input and output are, if not in ComfyUI.",
    )  # fmt: skip
    group.add_argument(
        "--out", metavar="FOLDER", default="",
        help=out,
    )  # fmt: skip
    group.add_argument(
        "--custom-node", metavar="FOLDER", action="append", default=[],
        help="A node pack to load first, where the model or its files need one; may be repeated.",
    )  # fmt: skip
    group.add_argument("--cpu", action="store_true", help="Compute on the processor, slowly.")


def enter(options: Namespace) -> Headless:
    """The host, its code loaded into this process and its folders known, behind one interface."""
    comfyui = _comfyui(options.comfyui)
    packs = [_folder(given, "--custom-node") for given in options.custom_node]
    base = (
        str(_folder(options.base_directory, "--base-directory")) if options.base_directory else ""
    )
    output = Path(options.out).absolute() if options.out else None
    logging.basicConfig(format="%(message)s")
    logging.getLogger("craft").setLevel(logging.INFO)
    logging.getLogger("craft").info("Starting ComfyUI from %s", comfyui)
    _put_first(comfyui)
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = options.cpu
    arguments.base_directory = base or None
    _require_device(options.cpu)
    headless = importlib.import_module("..comfy_adapter.headless", __package__)
    headless.begin(output, packs)
    return cast(Headless, headless)


def _put_first(comfyui: Path) -> None:
    """The host first on the search path, the pack not on it, so that `nodes` means the host's."""
    ours = {str(PACK), str(comfyui)}
    rest = [path for path in sys.path if path and os.path.abspath(path) not in ours]
    sys.path[:] = [str(comfyui), *rest]


def _require_device(cpu: bool) -> None:
    try:
        importlib.import_module("comfy.model_management")
    except (RuntimeError, AssertionError) as error:  # what torch raises where it has no device
        if cpu:
            raise
        raise CraftError(
            f"ComfyUI finds no device to compute on ({error})",
            "It needs a GPU that this Python's torch knows, or --cpu",
            "Add --cpu, or use the Python that ComfyUI runs with on your GPU",
        ) from error


def _comfyui(given: str) -> Path:
    """--comfyui, COMFYUI_PATH, or the ComfyUI this pack is installed in."""
    named = given or os.environ.get("COMFYUI_PATH", "").strip()
    if not named and PACK.parent.name == "custom_nodes":
        named = str(PACK.parent.parent)
    if named:
        folder = Path(named).expanduser().absolute()
        for candidate in (folder, folder / "ComfyUI"):
            if (candidate / "comfy" / "cli_args.py").is_file():
                return candidate
    raise CraftError(
        f"{named} is no ComfyUI folder" if named else "No ComfyUI was named",
        "It is a folder with main.py and comfy/ in it",
        "Give it with --comfyui FOLDER or in the environment variable COMFYUI_PATH",
    )


def _folder(given: str, flag: str) -> Path:
    folder = Path(given).expanduser().absolute()
    if folder.is_dir():
        return folder
    raise CraftError(
        f"{flag} {given}", "It names a folder", "Correct the path; there is none there"
    )
