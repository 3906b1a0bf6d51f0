"""`python -m craft_core queue` on two real servers: the files are those of one."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.hosts.pictures import shown
from craft_lora_pack.client.client import Client
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.client.facts import FILES, MISSING, facts_of, model_uses
from craft_lora_pack.client.loras import sending
from craft_lora_pack.client.loras.announced import MADE, VARIABLE
from safetensors.torch import load_file, save_file

from launcher.paths import ROOT
from launcher.run.hosts import Host
from launcher.run.server import Server
from launcher.run.workspace import prepare_workspace

DEMO = ROOT / "workflows" / "demo_small_world.json"
NAME = "sent/half_the_style.safetensors"
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


def test_a_server_that_lacks_a_lora_gets_it_and_gives_the_same_pictures(
    live_server, tmp_path, monkeypatch, capsys
):
    """The other one was not asked to take any, and takes none."""
    host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), own=False)
    own = ROOT / "small_world" / "models" / "loras" / STYLE
    tensors = {name: one * 0.5 for name, one in load_file(own).items()}
    sent = tmp_path / "loras" / NAME
    sent.parent.mkdir(parents=True)
    save_file(tensors, sent)
    there = live_server.server.folder / "models" / "loras" / NAME
    there.parent.mkdir(parents=True)
    shutil.copy(sent, there)
    command = ["queue", str(DEMO), *JOBS, "--set", f"style_lora={NAME}"]

    def files(out, *urls):
        places = [word for url in urls for word in ("--server", url)]
        words = [*places, "--send-loras", str(tmp_path / "loras"), "--out", str(tmp_path / out)]
        assert main([*command, *words]) == 0
        return {path.name: shown(path.read_bytes()) for path in (tmp_path / out).glob("*.png")}

    monkeypatch.setenv(VARIABLE, "1GB")
    try:
        with Server(host, prepare_workspace(host, tmp_path / "base"), cpu=True) as second:
            several = files("several", live_server.url, second.url)
            said = capsys.readouterr().err
            got = tmp_path / "base" / "models" / "loras" / NAME
            assert got.read_bytes() == sent.read_bytes() and "is left out" not in said
            assert f"{second.url}: {NAME} is there ({sent.stat().st_size} bytes)" in said
            assert len(second.client.get_json("/history")) > 1  # more than the first job
            alone = files("second", second.url)
            given = own.read_bytes()
            about = hashlib.sha256(given).hexdigest(), len(given)
            assert sending.offer(second.url, "again.safetensors", *about) == MADE
            assert (got.parents[1] / "again.safetensors").read_bytes() == given
            assert VARIABLE in second.log_text()
        assert several == alone == files("first", live_server.url) and len(several) == 5
        with pytest.raises(RemoteError, match="takes no LoRAs"):
            sending.offer(live_server.url, "again.safetensors", *about)
    finally:
        shutil.rmtree(there.parent)
