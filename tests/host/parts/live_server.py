"""A real ComfyUI server as a fixture: main.py in its own process, both packs linked.

For another tier: put this folder on sys.path in its conftest.py, then
`from live_server import live_server, pytest_runtest_makereport`.
"""

import io
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from craft_lora_pack.client.client import PromptResult
from craft_lora_pack.client.workflow import read_workflow, to_prompt
from PIL import Image

from launcher.run.hosts import Host
from launcher.run.server import Server
from launcher.run.workspace import prepare_workspace


class LiveServer:
    """The server as tests use it; every failure is a RemoteError in the host's own words."""

    def __init__(self, server: Server):
        self.server = server
        self.url = server.url
        self._object_info: dict[str, Any] | None = None

    def object_info(self) -> dict[str, Any]:
        """Every node the server knows (asked once)."""
        if self._object_info is None:
            self._object_info = self.server.client.object_info()
        return self._object_info

    def run(self, prompt: dict[str, Any]) -> PromptResult:
        """Queue an API-format prompt and wait for what it gives."""
        return self.server.client.run(prompt, limit=600)

    def prompt_of(self, workflow: Path | dict[str, Any]) -> dict[str, Any]:
        """The API-format prompt of a UI-format workflow or workflow file."""
        if isinstance(workflow, Path):
            workflow = read_workflow(workflow)
        return to_prompt(workflow, self.object_info())

    def images(self, result: PromptResult) -> list[np.ndarray]:
        """The pictures of a run as (height, width, 3) uint8 arrays."""
        contents = [self.server.client.fetch(item) for item in result.files()]
        return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents]

    def log(self) -> str:
        """Everything the server has written so far."""
        return self.server.log_text()


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for the whole session, on the CPU, with a base directory of its own."""
    host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), own=False)
    base = prepare_workspace(host, tmp_path_factory.mktemp("base"))
    with Server(host, base, cpu=True) as server:
        yield LiveServer(server)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the end of the server's log with every failing test that used the server."""
    report = yield
    live = getattr(item, "funcargs", {}).get("live_server")
    if report.failed and live is not None:
        report.sections.append(("ComfyUI", live.server.log_tail()))
    return report
