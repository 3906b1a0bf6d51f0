"""A server says how it lists files: of each entry of a list, and once for many prompts."""

from __future__ import annotations

import json

import pytest
from craft_lora_pack.client import client
from craft_lora_pack.client.client import Client
from craft_lora_pack.client.errors import ServerGone
from craft_lora_pack.client.facts import MISSING, as_listed, facts_of
from fake_comfyui import LORAS, PROMPT, FakeComfyUI
from fake_host import FakeHost

WINDOWS, OTHER = "x\\a.pt", "x/a.pt"
ROUTER = "/object_info/Router"


def entry(key, *files):
    return {"key": key, "inputs": {"required": {"file": ["COMBO", {"options": list(files)}]}}}


def loader(*entries):
    """A node whose list has these entries, as a server tells of it."""
    ways = ["COMFY_DYNAMICCOMBO_V3", {"options": list(entries)}]
    return {"Loader": {"input": {"required": {"way": ways}}}}


class Says(FakeComfyUI):
    """A server that has these nodes."""

    def __init__(self, nodes):
        super().__init__()
        self.nodes = nodes

    def answer(self, path):
        return self.nodes if path.startswith("/object_info") else super().answer(path)


def with_lora(name):
    router = PROMPT["1"] | {"inputs": PROMPT["1"]["inputs"] | {"content_lora": name}}
    return PROMPT | {"1": router}


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_that_any_entry_lists_is_there(order):
    entries = [entry("one", "a.pt"), entry("two", "b.pt")]
    uses = [("Loader", "way.file", name) for name in ("a.pt", "b.pt", "c.pt")]
    with Says(loader(*entries[::order])) as server:
        facts = facts_of(Client(server.url), ["Loader"], uses)["facts"]
    assert {name: facts[name] for name in ("a.pt", "b.pt", "c.pt")} == {
        "a.pt": "there", "b.pt": "there", "c.pt": MISSING,
    }  # fmt: skip


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("named", [WINDOWS, OTHER])
@pytest.mark.parametrize(("way", "listed"), [("one", WINDOWS), ("two", OTHER), ("none", None)])
def test_a_file_is_named_as_the_chosen_entry_lists_it(order, named, way, listed):
    entries = [entry("one", WINDOWS), entry("two", OTHER), {"key": "none", "inputs": {}}]
    node = {"class_type": "Loader", "inputs": {"way": way, "way.file": named}}
    with Says(loader(*entries[::order])) as server:
        sent = as_listed(Client(server.url), {"1": node})
    assert sent["1"]["inputs"] == {"way": way, "way.file": listed or named}


def no_node(_):
    return b"{}"


def no_input(_):
    return json.dumps({"Router": {"display_name": "Router"}}).encode()


@pytest.mark.parametrize("said", [no_node, no_input, lambda _: b"[7]", None])
def test_a_server_that_does_not_say_gets_the_names_as_they_are(said):
    prompt, known = with_lora(LORAS[0]), {}
    with FakeHost() as server:
        if said:
            server.said["/object_info"] = said
        else:
            server.refused.add(ROUTER)
        for _ in range(2):
            assert as_listed(Client(server.url), prompt, known) == prompt
        assert server.asked.count(ROUTER) == 1


def test_a_server_that_is_gone_is_no_server_that_does_not_say(monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 0.05)
    monkeypatch.setattr(client, "QUIET", 0.01)
    server = FakeHost()
    server._http.server_close()
    with pytest.raises(ServerGone):
        as_listed(Client(server.url), with_lora(LORAS[0]))


def test_of_many_prompts_a_server_is_asked_once_and_again_for_a_new_file():
    new, known = "animals/new.safetensors", {}
    with FakeHost(windows=True) as server:
        asks = Client(server.url)
        for _ in range(5):
            sent = as_listed(asks, with_lora(LORAS[0]), known)
            assert sent["1"]["inputs"]["content_lora"] == LORAS[0].replace("/", "\\")
        assert server.asked.count(ROUTER) == 1
        server.hashes[new] = "b" * 64  # which an earlier job saved
        for _ in range(3):
            sent = as_listed(asks, with_lora(new), known)
            assert sent["1"]["inputs"]["content_lora"] == new.replace("/", "\\")
        assert server.asked.count(ROUTER) == 2
