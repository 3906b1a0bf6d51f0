"""Hashes of model files are asked for aside: no job waits for them."""

import io
import json
import threading
import time

from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.hashes import Hashes
from craft_lora_pack.client import client
from craft_lora_pack.client.client import Client
from fake_comfyui import PROMPT, FakeComfyUI
from fake_host import FakeHost
from PIL import Image

SOON = 30.0


def until(true):
    end = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_each_file_is_asked_for_once_and_nobody_waits_for_it():
    asked, goes_on = [], threading.Event()

    def tell(name):
        asked.append(name)
        assert goes_on.wait(SOON)
        return {"version": "1", "sha256": name[0] * 64 if name != "none" else None}

    with FakeComfyUI() as server:
        server.tell_of = tell
        hashes = Hashes(Client(server.url))
        hashes.ask(["dog", "none", "dog"])
        hashes.ask(["dog"])
        assert hashes.known == {}
        goes_on.set()
        hashes.ask(["ink"])
        until(lambda: len(hashes.known) == 2 and len(asked) == 3)
    assert hashes.known == {"dog": "d" * 64, "ink": "i" * 64}
    assert sorted(asked) == ["dog", "ink", "none"]


def test_a_server_that_is_gone_tells_none():
    with FakeComfyUI() as server:
        hashes = Hashes(Client(server.url))
    hashes._learn(["dog"])
    assert hashes.known == {}


def test_pictures_name_what_is_known_when_they_are_saved(tmp_path, monkeypatch):
    """LoRAs are asked for before the first job, checkpoints, which are large, after it."""
    monkeypatch.setattr(client, "RECEIVE", 0.03)
    monkeypatch.setattr(Hashes, "ask", Hashes._learn)  # at once
    prompt = json.loads(json.dumps(PROMPT))
    prompt["1"]["inputs"]["ckpt_name"] = "base.safetensors"
    prompt["2"]["inputs"]["steps"] = 5
    file, out = tmp_path / "demo.json", tmp_path / "out"
    file.write_text(json.dumps(prompt))
    with FakeHost(hashes={"cat.safetensors": "a" * 64, "base.safetensors": "b" * 64,
                          "ink.safetensors": "c" * 64}) as server:  # fmt: skip
        command = ["queue", str(file), "--server", server.url, "--out", str(out)]
        assert main([*command, "--matrix", "seed=1..2"]) == 0
    said = []
    for path in sorted(out.glob("*.png")):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            said.append(image.info["parameters"].split("Seed: ")[1][3:])
    loras = f'Lora hashes: "cat: {"a" * 10}, ink: {"c" * 10}"'
    assert said == [f"Model: base, {loras}", f"Model hash: {'b' * 10}, Model: base, {loras}"]
