"""Which ComfyUI to use: the user's own where there is one, else the pinned one from the cache."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import LaunchError
from ..paths import ROOT
from .environment import ensure_environment
from .pip import clean_environment

PROBE = """
import json, sys
import torch, aiohttp, safetensors
mps = getattr(torch.backends, "mps", None)
device = "cuda" if torch.cuda.is_available() else ""
device = device or ("mps" if mps is not None and mps.is_available() else "")
xpu = getattr(torch, "xpu", None)
device = device or ("xpu" if xpu is not None and xpu.is_available() else "cpu")
print("\\n" + json.dumps({"device": device, "torch": torch.__version__}))
"""


@dataclass(frozen=True)
class Host:
    """A ComfyUI that can be started. `own` is True for the user's, which is never written to."""

    comfyui: Path
    python: Path
    own: bool


def find_host() -> Host:
    """COMFYUI_PATH, else the ComfyUI this folder is installed in, else the pinned one."""
    comfyui = find_own_comfyui(ROOT, os.environ)
    if comfyui is None:
        return pinned_host()
    return Host(comfyui, find_python(comfyui, os.environ), own=True)


def pinned_host(*, tools: bool = False) -> Host:
    """The pinned ComfyUI, set up when it is not yet."""
    environment = ensure_environment(tools=tools)
    return Host(environment.comfyui, environment.python, own=False)


def find_own_comfyui(clone: Path, environ: Mapping[str, str]) -> Path | None:
    """The user's ComfyUI tree, or None; LaunchError when COMFYUI_PATH names something else."""
    named = environ.get("COMFYUI_PATH", "").strip()
    if not named:
        inside = clone.parent.name == "custom_nodes" and _is_comfyui(clone.parent.parent)
        return clone.parent.parent if inside else None
    given = Path(named).expanduser().absolute()
    for folder in (given, given / "ComfyUI"):
        if _is_comfyui(folder):
            return folder
    raise LaunchError(
        f"COMFYUI_PATH is {named}, and no ComfyUI is there (no main.py beside comfy/); "
        "correct it, or unset it to let run.py use its own ComfyUI."
    )


def _is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy" / "cli_args.py").is_file()


def find_python(comfyui: Path, environ: Mapping[str, str]) -> Path:
    """The interpreter of the user's ComfyUI."""
    named = environ.get("COMFYUI_PYTHON", "").strip()
    if named:
        if Path(named).is_file():
            return Path(named).absolute()
        raise LaunchError(f"COMFYUI_PYTHON is {named}, and there is no such file; correct it.")
    for candidate in _python_candidates(comfyui):
        if candidate.is_file():
            return candidate
    if _has_torch(Path(sys.executable)):
        return Path(sys.executable)
    raise LaunchError(
        f"found your ComfyUI in {comfyui} but not its Python; "
        "set COMFYUI_PYTHON to the interpreter you start it with."
    )


def _python_candidates(comfyui: Path) -> Iterator[Path]:
    """Where a ComfyUI keeps its Python: an environment in or beside it, or the portable build."""
    for folder in (comfyui, comfyui.parent):
        for name in ("venv", ".venv"):
            yield folder / name / "bin" / "python"
            yield folder / name / "Scripts" / "python.exe"
    yield comfyui.parent / "python_embeded" / "python.exe"
    yield comfyui.parent / "python_embedded" / "python.exe"


def _has_torch(python: Path) -> bool:
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    command = [str(python), "-c", probe]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def device_of(host: Host) -> str:
    """`cuda`, `mps`, `xpu` or `cpu`, asked of the host's own torch."""
    finished = subprocess.run(
        [str(host.python), "-c", PROBE],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=clean_environment(),
        check=False,
    )
    if finished.returncode == 0:
        return json.loads(finished.stdout.strip().splitlines()[-1])["device"]
    reason = finished.stderr.strip().splitlines() or ["no reason given"]
    cure = (
        "set COMFYUI_PYTHON to the interpreter you start your ComfyUI with."
        if host.own
        else f"delete {host.python.parent.parent.parent} and run the same command again."
    )
    raise LaunchError(f"{host.python} cannot run ComfyUI ({reason[-1]}); {cure}")
