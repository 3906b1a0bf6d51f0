"""`python -m craft_core queue` on two real servers: the files are those of one."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.hosts.pictures import shown
from craft_lora_pack.client.client import Client
from craft_lora_pack.client.facts import FILES, MISSING, facts_of, model_uses

from launcher.paths import ROOT
from launcher.run.hosts import Host
from launcher.run.server import Server
from launcher.run.workspace import prepare_workspace

DEMO = ROOT / "workflows" / "demo_small_world.json"
STYLE = "craft_small_world_style.safetensors"
JOBS = [
    "--set",
    "steps=2",
    "--set",
    "batch_size=1",
    "--matrix",
    "content_strength=0.2,0.7",
    "seed=1..2",
]


def test_a_server_tells_what_a_model_file_is(live_server):
    client = Client(live_server.url)
    file = next(ROOT.joinpath("small_world").rglob(STYLE))
    told = client.ask(f"{FILES}?name={STYLE}")
    assert told["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert told["bytes"] == file.stat().st_size and told["version"][0].isdigit()
    for name in ("", "none.safetensors", "../../main.py", "/etc/hostname"):
        assert client.ask(f"{FILES}?name={name}")["sha256"] is None


def test_a_server_tells_what_a_workflow_needs(live_server):
    prompt = live_server.prompt_of(DEMO)
    types = [node["class_type"] for node in prompt.values()]
    told = facts_of(Client(live_server.url), [*types, "Nothing"], model_uses(prompt))
    facts = told["facts"]
    assert facts["the node Nothing"] == MISSING and list(facts.values()).count(MISSING) == 1
    assert len(facts[STYLE]) == 64 and told["sizes"][STYLE] > 0 and told["free"] > 0
    assert facts["ComfyUI"][0].isdigit() and facts["CRAFT LoRA"][0].isdigit()


@pytest.mark.sweep
def test_two_servers_make_the_files_of_one(live_server, tmp_path):
    host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), own=False)

    def files(out, *urls):
        places = [word for url in urls for word in ("--server", url)]
        assert main(["queue", str(DEMO), *places, "--out", str(tmp_path / out), *JOBS]) == 0
        return {path.name: shown(path.read_bytes()) for path in (tmp_path / out).glob("*.png")}

    with Server(host, prepare_workspace(host, tmp_path / "base"), cpu=True) as second:
        several = files("several", live_server.url, second.url)
        assert len(second.client.get_json("/history")) > 1  # more than the first job
    assert several == files("one", live_server.url) and len(several) == 5
