"""From a workflow file to saved pictures, through a real server."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from craft_lora_pack.client.address import Inputs
from craft_lora_pack.client.client import Client, PromptResult
from craft_lora_pack.client.progress import RunProgress
from craft_lora_pack.client.workflow import read_workflow, to_prompt

from ..errors import LaunchError
from ..terminal import Spinner, bar, say
from .hosts import device_of, find_host
from .server import Server
from .workspace import prepare_workspace


@contextmanager
def open_server(port: int | None = None) -> Iterator[Server]:
    """Find or set up a host, link our packs, start the server; it ends with the block."""
    host = find_host()
    if host.own:
        say(f"Using your ComfyUI in {host.comfyui} (nothing is written to it)")
    base = prepare_workspace(host)
    with ExitStack() as until_the_end:
        with Spinner("starting ComfyUI"):
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
        info = server.client.object_info()
        inputs = Inputs(to_prompt(workflow, info), info)
        prompt = inputs.with_values(dict(map(inputs.read, settings or [])))
        with Spinner(f"running {path.name}") as step:
            progress = RunProgress(prompt)

            def show(kind: str, data: dict) -> None:
                progress.event(kind, data)
                step.detail(_told(progress))

            result = server.client.run(prompt, workflow=workflow, show=show)
        saved = save_files(server.client, result, output)
    if not saved:
        raise LaunchError(f"{path.name} ran and gave no picture; does it have a Save Image node?")
    for file in saved:
        say(f"saved {file}")
    return saved


def _told(progress: RunProgress) -> str:
    """How many nodes are done, and the running node's own steps, in one line."""
    steps = bar(progress.step, progress.steps) if progress.steps else ""
    number = min(progress.done + 1, progress.total)
    return f"node {number} of {progress.total} {steps} {progress.title}".replace("  ", " ")


def save_files(client: Client, result: PromptResult, output: Path) -> list[Path]:
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
