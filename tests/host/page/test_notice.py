"""Notices go to the page that queued the prompt, and to no other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from comfy_execution.utils import CurrentNodeContext
from craft_lora_pack.comfy_adapter.page.notice import NOTICE, tell, warn
from craft_lora_pack.nodes.router import Router
from server import PromptServer

TEXT = "The prompt has no <s>, so the style LoRA is off.\n- __my_lora__ [v1] | `a & b`"


@pytest.fixture
def sent(monkeypatch):
    """What a server sends, and a Router that runs as node 7 of a prompt."""
    found = []
    server = SimpleNamespace(client_id="page", send_sync=lambda *sent: found.append(sent))
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    monkeypatch.setattr(Router, "hidden", SimpleNamespace(unique_id="7"))
    with CurrentNodeContext("prompt", "7"):
        yield found


@pytest.mark.parametrize("say", [tell, warn])
def test_a_notice_goes_as_it_is_written_to_the_page_that_queued_the_prompt(sent, say):
    say(Router, TEXT)
    message = {"node": "7", "type": "CRAFTRouter", "prompt_id": "prompt", "text": TEXT}
    assert sent == [(NOTICE, message, "page")]


def test_warnings_stand_together_above_what_the_node_has_to_say(sent, caplog):
    warn(Router, "First.", "Second.", then="Report.")
    assert [message["text"] for _, message, _ in sent] == ["First.\nSecond.\nReport."]
    assert [record.getMessage() for record in caplog.records] == ["First.", "Second."]
    warn(Router)
    assert len(sent) == 1
    warn(Router, then="Report.")
    assert sent[1][1]["text"] == "Report."


def test_a_prompt_of_no_client_is_sent_to_no_page(sent):
    PromptServer.instance.client_id = None
    tell(Router, TEXT)
    assert sent == []


def test_without_a_server_or_a_running_node_nothing_is_sent(sent, monkeypatch):
    monkeypatch.setattr(Router, "hidden", None)
    tell(Router, TEXT)
    monkeypatch.setattr(PromptServer, "instance", None, raising=False)
    tell(Router, TEXT)
    assert sent == []
