"""The nodes of the first of several servers that has those of the workflow, waited for aloud."""

from __future__ import annotations

import json

import pytest
from craft_lora_pack.cli.queue import command
from craft_lora_pack.client.errors import ServerGone
from fake_comfyui import OBJECT_INFO, PROMPT


class Late:
    """Servers that are there, or answer, at the second look."""

    patience, wanted = 600.0, "a worker"

    def __init__(self, is_there):
        self._is_there, self._looks = is_there, 0

    def present(self):
        self._looks += 1
        return {"one": self} if self._is_there or self._looks > 1 else {}

    def aside(self, function):
        if self._looks == 1:
            raise ServerGone("http://127.0.0.1:8188 does not answer.")
        return OBJECT_INFO


@pytest.mark.parametrize("is_there", [True, False])
def test_what_is_waited_for_is_said_when_waiting_begins(tmp_path, capsys, monkeypatch, is_there):
    monkeypatch.setattr(command.time, "sleep", lambda _: None)
    file = tmp_path / "demo.json"
    file.write_text(json.dumps(PROMPT))
    assert command._read(file, Late(is_there))[0] == PROMPT
    reason = " (http://127.0.0.1:8188 does not answer)" if is_there else ""
    said = capsys.readouterr().err
    assert said == f"No server is there{reason}; waiting up to 10 minutes for a worker.\n"
