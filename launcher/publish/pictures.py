"""Take the pictures of the help pages and of the README again, from the host's own page, and the
templates' thumbnails from what the workflows save.

Always with the pinned host on the CPU, in a folder of its own, so that no picture shows anything
of a user's.
The part that drives the browser is docs/pictures/take.py, which runs in the host's environment.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from ..errors import LaunchError
from ..paths import ROOT
from ..run.hosts import pinned_host
from ..run.pip import clean_environment
from ..run.server import Server
from ..run.tiers import find_chromium
from ..run.workspace import prepare_workspace
from ..terminal import say
from .thumbnails import WORKFLOWS, take_thumbnails

SCRIPT = ROOT / "docs" / "pictures" / "take.py"
SCENES = SCRIPT.with_name("scenes.json")
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the page opens on its template browser
    "Comfy.VueNodes.Enabled": True,
    "Comfy.ColorPalette": "dark",
    "Comfy.Locale": "en",
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # texts are drawn however small
}


def take_pictures(named: list[str]) -> None:
    """Write web/docs/pictures/, docs/*_graph.png and workflows/*.jpg anew; only those named, where
    some are. A template's thumbnail has the template's name."""
    unknown = sorted(set(named) - set(known_pictures()))
    if unknown:
        known = ", ".join(known_pictures())
        raise LaunchError(f"there is no picture called {', '.join(unknown)}; there are: {known}.")
    thumbnails = [name for name in WORKFLOWS if not named or name in named]
    of_page = [name for name in named if name not in WORKFLOWS]
    host = pinned_host(tools=True)
    chromium = find_chromium() if of_page or not named else ""
    with tempfile.TemporaryDirectory(prefix="craft-pictures-") as folder:
        base = prepare_workspace(host, Path(folder))
        for file in offered_files():
            (base / file).parent.mkdir(parents=True, exist_ok=True)
            (base / file).touch()
        say("  starting ComfyUI")
        with Server(host, base, cpu=True) as server:
            for name, value in SETTINGS.items():
                server.client.post_json(f"/settings/{name}", value)
            if thumbnails:
                take_thumbnails(thumbnails, host, server, Path(folder) / "thumbnails")
            if named and not of_page:
                return
            command = [str(host.python), str(SCRIPT), server.url, chromium, *of_page]
            finished = subprocess.run(command, cwd=ROOT, env=clean_environment(), check=False)
            if finished.returncode != 0:
                raise LaunchError(f"not all pictures could be taken.\n{server.log_tail()}")


def offered_files() -> list[str]:
    """Paths in ComfyUI's folder of the empty files that menus of the scenes offer."""
    scenes = json.loads(SCENES.read_text("utf-8"))
    return [file for scene in scenes for file in scene.get("files", ())]


def known_pictures() -> list[str]:
    """The names of all pictures: node ids, and the files of graphs and templates, no endings."""
    scenes = json.loads(SCENES.read_text("utf-8"))
    nodes = {node for scene in scenes for node in scene.get("nodes", {})}
    graphs = {Path(file).stem for scene in scenes for file in scene.get("graph", {})}
    return sorted(nodes | graphs | set(WORKFLOWS))
