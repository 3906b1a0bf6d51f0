"""The shipped workflows as prompts: in few steps, looked through, and refused by the server."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
from craft_lora_pack.client.errors import RemoteError

from launcher.paths import ROOT

FOLDER = ROOT / "workflows"
STEPS = 3


def linked(value: Any) -> bool:
    return isinstance(value, list)


def in_few_steps(prompt: dict[str, Any]) -> dict[str, Any]:
    for node in prompt.values():
        for name in {"steps", "mode.steps", "method.steps"} & node["inputs"].keys():
            assert not linked(node["inputs"][name])
            node["inputs"][name] = STEPS
    return prompt


def ids(prompt: dict[str, Any], kind: str) -> list[str]:
    return [name for name, node in prompt.items() if node["class_type"] == kind]


def inputs(prompt: dict[str, Any], kind: str) -> dict[str, Any]:
    """The inputs of the first node of a class."""
    return prompt[ids(prompt, kind)[0]]["inputs"]


def base_folder(live_server) -> Path:
    return live_server.server.log.parents[1]


def refusal(live_server, prompt: dict[str, Any]) -> str:
    """What the server says to a prompt that it does not queue."""
    with pytest.raises(RemoteError) as refused:
        live_server.server.client.queue(prompt)
    cause = refused.value.__cause__
    assert isinstance(cause, urllib.error.HTTPError) and cause.code == 400
    return str(refused.value)
