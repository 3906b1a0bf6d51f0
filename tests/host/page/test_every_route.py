"""Every route of the page answers in words, whatever it is asked and whatever breaks behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import pytest
import small_world_models as small
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from craft_lora_pack.comfy_adapter.page import routes
from server import PromptServer

NAMES = (
    "name", "kind", "patterns", "workflow", "node", "prompt_id", "save_name", "role", "method",
    "steps", "effort",
)  # fmt: skip
TEXTS = (
    "", "a", "0", "-1", "1e999", "null", "[1]", "{}", "../..", "/", "\0", "\x1b[31m", "猫" * 300,
    "a" * 5000, "loras", "checkpoints", "content", "CRAFTTrainRoleLora", small.CHECKPOINT,
    small.CONTENT,
)  # fmt: skip
BODIES = (
    b"", b"\xff\xfe", b"null", b"1", b'"text"', b"[]", b"[1]", b"{}", b"{", b'{"a": 1}',
    b"[" * 9999,
    b'{"content": 1}', b'{"schedule": 1}', b'{"schedule": {"shape": 1}}', b'{"method": [1]}',
    b'{"layer_sets": {}}', b'{"guidance": "x", "cfg": "x"}', b'{"cfg": 1e999}',
    b'{"cfg": ' + b"9" * 5000 + b"}",
)  # fmt: skip
WORKFLOWS: tuple[Any, ...] = (
    None, "text", 1, 1.5, True, [], [1], {}, {"workflow": None}, {"workflow": "x"},
    {"workflow": [1]}, {"workflow": 1}, {"workflow": {}}, {"workflow": {"id": None}},
    {"workflow": {"id": 1}}, {"workflow": {"id": [1]}}, {"workflow": {"id": {"a": 1}}},
)  # fmt: skip
BREAKING = (
    KeyError("secret"), AttributeError("secret"), TypeError("secret"), AssertionError(),
    RuntimeError("secret"), NotImplementedError("secret"), RecursionError(), MemoryError(),
    OSError(5, "secret"), torch.OutOfMemoryError("no room"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
)  # fmt: skip


@pytest.fixture
def queue(monkeypatch) -> Iterator[SimpleNamespace]:
    """A server of which the pack's routes are asked: of what runs, and of what has run."""
    found = SimpleNamespace(running=[], history={})
    found.get_current_queue_volatile = lambda: (found.running, [])

    def history(prompt_id: str, map_function: Callable) -> dict[str, Any]:
        return {key: map_function(one) for key, one in found.history.items() if key == prompt_id}

    found.get_history = history
    server = SimpleNamespace(routes=web.RouteTableDef(), prompt_queue=found)
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    routes.add_page_routes()
    yield found


def every_route() -> list[tuple[str, str]]:
    return [(one.method, one.path) for one in PromptServer.instance.routes]


def ask(questions: list[tuple[str, str, dict[str, Any]]]) -> list[tuple[int, Any]]:
    """(status, answer) of each (method, path, what aiohttp's client takes besides)."""

    async def asked() -> list[tuple[int, Any]]:
        app = web.Application()
        app.add_routes(PromptServer.instance.routes)
        async with TestClient(TestServer(app)) as client:
            found = []
            for method, path, given in questions:
                answer = await client.request(method, path, **given)
                text = await answer.text()
                found.append((answer.status, json.loads(text) if answer.status == 200 else text))
            return found

    return asyncio.run(asked())


def test_the_routes_are_those_of_the_table(queue):
    own = {value for value in vars(routes).values()
           if isinstance(value, str) and value.startswith("/craft_lora/")}  # fmt: skip
    assert {path for _, path in every_route()} == own and len(own) > 10


@pytest.mark.parametrize("name", NAMES)
def test_any_query_is_answered(queue, name):
    asked = [(method, path, {"params": {name: text}, "data": b"{}" if method == "POST" else None})
             for method, path in every_route() for text in TEXTS]  # fmt: skip
    for question, (status, answer) in zip(asked, ask(asked), strict=True):
        assert status == 200 and isinstance(answer, dict), question
        assert "not foreseen" not in answer.get("error", ""), question


def test_two_names_in_any_way_are_answered(queue):
    """What a route reads of a sound name: the other one is of any text then."""
    sound = {"kind": "checkpoints", "name": small.CHECKPOINT, "node": "CRAFTTrainBasis",
             "save_name": "a", "workflow": "a", "role": "content"}  # fmt: skip
    asked = [(method, path, {"params": {**sound, name: text}})
             for method, path in every_route() if method == "GET"
             for name in NAMES for text in TEXTS]  # fmt: skip
    for question, (status, answer) in zip(asked, ask(asked), strict=True):
        assert status == 200 and isinstance(answer, dict), question
        assert "not foreseen" not in answer.get("error", ""), question


def test_any_body_is_answered(queue):
    asked = [(method, path, {"data": body, "params": {}})
             for method, path in every_route() if method == "POST" for body in BODIES]  # fmt: skip
    assert asked
    for question, (status, answer) in zip(asked, ask(asked), strict=True):
        assert status == 200 and isinstance(answer, dict), question
        assert "not foreseen" not in answer.get("error", ""), question


def test_a_body_that_is_not_what_its_headers_say_is_answered(queue):
    asked = [(method, path, {"data": b"no gzip", "headers": {"Content-Encoding": "gzip"}})
             for method, path in every_route() if method == "POST"]  # fmt: skip
    for question in asked:  # each over a connection of its own: the server closes it
        ((status, _),) = ask([question])
        assert status < 500


@pytest.mark.parametrize("saved", WORKFLOWS, ids=repr)
@pytest.mark.parametrize("where", ["running", "history"])
def test_a_prompt_of_any_workflow_is_answered(queue, saved, where):
    for extra in ({"extra_pnginfo": saved}, saved):
        prompt = (0, "p", {}, extra, ["1"], {})
        queue.running = [prompt] if where == "running" else []
        queue.history = {"p": {"prompt": prompt}} if where == "history" else {}
        answers = ask([("GET", routes.WORKFLOW, {"params": {"prompt_id": "p"}})])
        runs = where == "running"
        assert answers == [(200, {"workflow": None, "runs": runs, "failure": None})]


def test_the_workflow_of_a_prompt_is_told(queue):
    extra = {"extra_pnginfo": {"workflow": {"id": "abc"}}}
    queue.running = [(0, "p", {}, extra, ["1"], {})]
    asked = [("GET", routes.WORKFLOW, {"params": {"prompt_id": one}}) for one in ("p", "other")]
    assert ask(asked) == [
        (200, {"workflow": "abc", "runs": True, "failure": None}),
        (200, {"workflow": None, "runs": False, "failure": None}),
    ]


def test_how_a_prompt_ended_is_told(queue):
    said = {
        "prompt_id": "p", "node_id": "3", "node_type": "CRAFTRouter",
        "exception_message": "Wrong", "exception_type": "CraftError",
    }  # fmt: skip
    started = ("execution_start", {"prompt_id": "p"})
    failed = ("execution_error", {**said, "traceback": ["line"], "executed": []})
    prompt = (0, "p", {}, {"extra_pnginfo": {"workflow": {"id": "abc"}}}, ["1"], {})
    for messages, failure in ([started], None), ([started, failed], said), (None, None):
        queue.history = {"p": {"prompt": prompt, "status": {"messages": messages}}}
        answers = ask([("GET", routes.WORKFLOW, {"params": {"prompt_id": "p"}})])
        assert answers == [(200, {"workflow": "abc", "runs": False, "failure": failure})]


@pytest.mark.parametrize("error", BREAKING, ids=lambda one: type(one).__name__)
def test_whatever_breaks_behind_a_route_is_told(queue, monkeypatch, error):
    def breaks(*_: object) -> str:
        raise error

    monkeypatch.setattr(routes, "_text_of", breaks)
    for status, answer in ask([(method, path, {}) for method, path in every_route()]):
        assert status == 200 and answer["error"]


def test_the_servers_own_answers_are_left_to_it(queue, monkeypatch):
    def breaks(*_: object) -> str:
        raise web.HTTPRequestEntityTooLarge(1, 2)  # a new one for each: it is sent as it is

    monkeypatch.setattr(routes, "_text_of", breaks)
    assert {status for status, _ in ask([(m, path, {}) for m, path in every_route()])} == {413}


def test_an_interrupt_is_no_answer(queue, monkeypatch):
    interrupt = comfy.model_management.InterruptProcessingException

    def breaks(*_: object) -> str:
        raise interrupt

    monkeypatch.setattr(routes, "_text_of", breaks)
    request = SimpleNamespace(rel_url=SimpleNamespace(query={}))
    with pytest.raises(interrupt):
        asyncio.run(routes._methods(request))
