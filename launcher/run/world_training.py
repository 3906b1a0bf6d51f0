"""Train the small world's base model inside the host's environment."""

import subprocess

from ..paths import ROOT
from .hosts import find_host
from .pip import clean_environment


def train_world(background: bool, arguments: list[str]) -> int:
    """Continue the training that is kept in the user's cache, or begin one; returns its status.

    `arguments` are passed to `python -m small_world.train base`.
    """
    host = find_host()
    command = [str(host.python), "-m", "small_world.train", "base"]
    command += [*(["--background"] if background else []), *arguments]
    environment = clean_environment(COMFYUI_PATH=str(host.comfyui))
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
