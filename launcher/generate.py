"""From a workflow file to saved pictures, through a real server."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .client import Client, Result
from .errors import LaunchError
from .hosts import device_of, find_host
from .server import Server
from .terminal import Activity, bar, say
from .workflow import read_workflow, set_value, to_prompt
from .workspace import prepare_workspace


@contextmanager
def open_server(port: int | None = None) -> Iterator[Server]:
    """Find or make a host, link our packs, start it; ends it on leaving."""
    host = find_host()
    if host.own:
        say(f"Using your ComfyUI in {host.comfyui} (nothing is written to it)")
    base = prepare_workspace(host)
    with ExitStack() as until_the_end:
        with Activity("starting ComfyUI"):
            device = device_of(host)
            server = until_the_end.enter_context(Server(host, base, cpu=device == "cpu", port=port))
        failed = server.failed_packs()
        if failed:
            raise LaunchError(
                f"ComfyUI could not load {'; '.join(failed)}\nThe server's log: {server.log}"
            )
        say(f"  ComfyUI runs on {device}, its log is {server.log}")
        yield server


def generate(path: Path, output: Path, settings: list[str] | None = None) -> list[Path]:
    """Run a workflow file and save its pictures; returns where they are."""
    workflow = read_workflow(path)
    with open_server() as server:
        prompt = to_prompt(workflow, server.client.object_info())
        for assignment in settings or []:
            set_value(prompt, assignment)
        with Activity(f"running {path.name}") as step:
            progress = RunProgress(prompt, step)
            result = server.client.run(prompt, workflow=workflow, show=progress.event)
        saved = save_files(server.client, result, output)
    if not saved:
        raise LaunchError(f"{path.name} ran and gave no picture; does it have a Save Image node?")
    for file in saved:
        say(f"saved {file}")
    return saved


class RunProgress:
    """The host's events as one line: how many nodes are done, and the running node's own steps."""

    def __init__(self, prompt: dict[str, Any], step: Activity):
        self._titles = {name: node["_meta"]["title"] for name, node in prompt.items()}
        self._step = step
        self._done: set[str] = set()
        self._running = ""

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take one event of the websocket."""
        if kind == "execution_cached":
            self._done.update(data.get("nodes", []))
        elif kind == "executing" and data.get("node"):
            self._next(data["node"])
        elif kind == "progress" and data.get("max"):
            self._show(f"{bar(data['value'], data['max'])} {self._title()}")
            return
        self._show(self._title())

    def _next(self, node: str) -> None:
        if self._running:
            self._done.add(self._running)
        self._running = node

    def _title(self) -> str:
        return self._titles.get(self._running, "")

    def _show(self, text: str) -> None:
        self._step.detail(f"node {len(self._done) + 1} of {len(self._titles)} {text}")


def save_files(client: Client, result: Result, output: Path) -> list[Path]:
    """Fetch the pictures of a run into a folder; returns their paths."""
    saved = []
    try:
        output.mkdir(parents=True, exist_ok=True)
        for item in result.files():
            file = output / Path(item["filename"].replace("\\", "/")).name
            file.write_bytes(client.fetch(item))
            saved.append(file)
    except OSError as error:
        raise LaunchError(
            f"the pictures could not be saved in {output} ({error.strerror or error})."
        ) from error
    return saved
