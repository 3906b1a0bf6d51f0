"""comfy-cli, the registry's own command line, in an environment of its own."""

from pathlib import Path

from ..paths import shared_cache, venv_python
from ..run.cache import locked, read_stamps, write_stamps
from ..run.environment import ensure_environment, make_layer
from ..run.pip import pip
from ..terminal import Spinner

PACKAGE = "comfy-cli==1.23.0"


def comfy_program() -> Path:
    """The program `comfy`, set up where it is not yet (once, about 250 MB); LaunchError if it
    cannot be installed."""
    below = ensure_environment().python
    home = shared_cache() / "comfy-cli"
    python = venv_python(home / "venv")
    program = python.with_name(f"comfy{python.suffix}")
    wanted = {"comfy-cli": f"{PACKAGE} on {below}"}
    with locked(shared_cache() / "comfy-cli.lock"):
        if read_stamps(home / "installed.json") != wanted or not program.exists():
            home.mkdir(parents=True, exist_ok=True)
            make_layer(below, home / "venv")
            with Spinner(f"installing {PACKAGE}") as step:
                arguments = ["install", "--no-compile", PACKAGE]
                logs = {"log": home / "set-up.log", "scratch": home / "scratch"}
                pip(python, arguments, **logs, show=step.detail)
            write_stamps(home / "installed.json", wanted)
    return program
