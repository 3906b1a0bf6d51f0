"""Make the thumbnails of the templates from what the small world's workflows save."""

import json
import subprocess
from pathlib import Path

from craft_lora_pack.client.workflow import read_workflow, to_prompt

from ..errors import LaunchError
from ..paths import ROOT
from ..run.generate import save_files
from ..run.hosts import Host
from ..run.pip import clean_environment
from ..run.server import Server
from ..terminal import Spinner

PICTURES = ROOT / "docs" / "pictures"
SCRIPT, LOADERS = PICTURES / "thumbnails.py", PICTURES / "two_loaders.json"
WORKFLOWS = {path.stem: path for path in sorted((ROOT / "workflows").glob("*_small_world.json"))}


def take_thumbnails(names: list[str], host: Host, server: Server, folder: Path) -> None:
    """Run the named workflows and write workflows/NAME.jpg. folder: for what they save."""
    info = server.client.object_info()
    with Spinner("running two LoRA loaders"):
        result = server.client.run(json.loads(LOADERS.read_text("utf-8")))
    save_files(server.client, result, folder / LOADERS.stem)
    for name in names:
        workflow = read_workflow(WORKFLOWS[name])
        with Spinner(f"running {name}"):
            result = server.client.run(to_prompt(workflow, info), workflow=workflow)
        save_files(server.client, result, folder / name)
    command = [str(host.python), str(SCRIPT), str(folder)]
    if subprocess.run(command, cwd=ROOT, env=clean_environment(), check=False).returncode != 0:
        raise LaunchError("the thumbnails could not be made from what the workflows saved.")
