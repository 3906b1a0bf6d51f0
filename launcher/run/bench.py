"""Run a benchmark script inside the host's environment."""

import subprocess

from ..errors import LaunchError
from ..paths import ROOT
from .hosts import find_host
from .pip import clean_environment


def run_benchmark(name: str, arguments: list[str]) -> int:
    """Run benchmarks/NAME.py with the host's Python, COMFYUI_PATH set; returns its status."""
    scripts = {script.stem: script for script in (ROOT / "benchmarks").glob("[!_]*.py")}
    if name not in scripts:
        known = ", ".join(sorted(scripts)) or "none is shipped"
        raise LaunchError(f"there is no benchmark called {name!r}; there are: {known}.")
    host = find_host()
    command = [str(host.python), str(scripts[name]), *arguments]
    environment = clean_environment(COMFYUI_PATH=str(host.comfyui))
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
