"""The soak's own prompts and its probe, on a real server: a short one finds nothing."""

import os
import sys
from itertools import islice
from pathlib import Path

import pytest

from launcher.lasting.prompts import CHANGING, Prompts
from launcher.lasting.soak import PROBE, ROUTE, soak_server
from launcher.run.hosts import Host
from launcher.run.server import Server
from launcher.run.workspace import link, prepare_workspace


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), own=False)
    base = prepare_workspace(host, tmp_path_factory.mktemp("base"))
    link(PROBE, base / "custom_nodes" / "craft_soak_probe")
    with Server(host, base, cpu=True) as server:
        yield server, Prompts(server.client.object_info(), base, seed=3)


def test_a_short_soak_finds_nothing(probed):
    server, prompts = probed
    soak = soak_server(server.client, prompts, 3, seed=1)
    assert soak.faults == []
    weights = [look.held["weights"] for look in soak.looks]
    assert weights[0] and all(one == weights[0] for one in weights)


def test_the_server_accepts_every_kind_of_prompt(probed):
    server, prompts = probed
    jobs = [prompts.reference(), *islice(prompts.drawn(), 60)]
    different = {job.key: job.prompt for job in jobs}
    for prompt in different.values():
        server.client.cancel(server.client.queue(prompt))
    assert any(CHANGING in str(prompt) for prompt in different.values())
    assert server.client.ask(ROUTE)["memory"] > 0
